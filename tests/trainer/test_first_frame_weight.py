"""How much the first latent frame counts in an error: against means written out here with NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import UserError
from tests.tiny_wan import CHANNELS, TOKENS, build, latent_shape
from tests.trainer.cogvideox_kinds import KINDS, make_scheduler
from trainer.config import TrainConfig
from trainer.data import MicroBatchSource
from trainer.families import load_family
from trainer.families.base import PairShapes
from trainer.families.cogvideox import CogVideoXFamily
from trainer.loop import Trainer
from trainer.reference import reference_key
from trainer.setup import estimate
from trainer.step import noised, per_sample_mse
from trainer.train import train

LATENT = (3, 4, 4, 6)
IMAGE = (1, 4, 4, 6)


def shapes(latent: tuple[int, ...] = LATENT, image: Any = IMAGE, **changes: Any) -> PairShapes:
    return PairShapes(latent=latent, prompt=(5, 12), image=image, **changes)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 3.0])
def test_an_error_is_the_mean_in_which_the_first_frame_counts_so_much(
    weight: float, make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    trainer = Trainer(make_config(first_frame_weight=weight), make_pairs(4))
    inputs = MicroBatchSource(trainer.config, trainer.loader, trainer.timesteps).load(0)
    loss_weight_X = trainer.update.compute.loss_weight_X
    given = noised(trainer.family, inputs, inputs.batch.winner_BX, loss_weight_X)
    with torch.no_grad():
        prediction = trainer.family.predict(
            trainer.family.transformer, given.noised_NX, given.timestep_N, given.condition
        )
        found_N = per_sample_mse(trainer.family, trainer.family.transformer, given)
    square = (prediction - given.target_NX).numpy().astype(np.float64) ** 2
    for sample, found in zip(square, found_N.tolist(), strict=True):
        first, rest = sample[0], sample[1:]
        by_hand = (weight * first.sum() + rest.sum()) / (weight * first.size + rest.size)
        assert found == pytest.approx(by_hand, rel=1e-6)


def test_both_sides_and_the_reference_are_weighed_alike(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    # Before the first step the policy is the reference, whatever counts: no margin, and log 2.
    metrics: list[dict[str, float]] = []
    config = make_config(first_frame_weight=0.0, steps=1, warmup=0)
    train(config, lambda _, found: metrics.append(found), source=make_pairs(4))
    assert metrics[0]["margin"] == 0.0
    assert metrics[0]["loss"] == pytest.approx(np.log(2.0), abs=1e-9)


def test_without_weight_the_first_frame_of_a_target_teaches_nothing(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    trainer = Trainer(make_config(first_frame_weight=0.0, objective="sft"), make_pairs(4))
    inputs = MicroBatchSource(trainer.config, trainer.loader, trainer.timesteps).load(0)
    compute = trainer.update.compute
    given = noised(trainer.family, inputs, inputs.batch.winner_BX, compute.loss_weight_X)
    before = per_sample_mse(trainer.family, trainer.family.transformer, given)
    given.target_NX[:, 0] += 100
    assert torch.equal(per_sample_mse(trainer.family, trainer.family.transformer, given), before)
    given.target_NX[:, 1] += 100
    assert bool((per_sample_mse(trainer.family, trainer.family.transformer, given) > before + 100).all())


def test_at_one_a_training_is_bit_for_bit_what_it_was_before_the_option(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    trainer = Trainer(make_config(first_frame_weight=1.0), make_pairs(4))
    assert trainer.update.compute.loss_weight_X is None
    assert "first_frame_weight" not in trainer.fixed
    assert trainer.fixed | {"first_frame_weight": 0.0} != trainer.fixed
    weighed = trainer.fixed | {"first_frame_weight": 2.0}
    assert reference_key(weighed) != reference_key(trainer.fixed), "cached errors are not shared"


def test_a_training_does_not_go_on_with_another_weight(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    train(make_config(steps=2), source=make_pairs(4))
    with pytest.raises(UserError, match=r"started with first_frame_weight 1.0, now it is 0.5"):
        train(make_config(steps=2, first_frame_weight=0.5), source=make_pairs(4))


def test_which_latent_frame_is_the_first(make_transformer: Callable[..., Any], tmp_path: Path) -> None:
    def cogvideox(name: str) -> CogVideoXFamily:
        return CogVideoXFamily(make_transformer(**KINDS[name].transformer), make_scheduler(KINDS[name]))

    def weights(family: Any, given: PairShapes, weight: float) -> tuple[tuple[int, ...], list[float]]:
        counted = family.loss_weight(given, weight)
        return tuple(counted.shape), counted.flatten().tolist()

    assert weights(cogvideox("5b i2v"), shapes(), 0.5) == ((3, 1, 1, 1), [0.5, 1, 1])
    # Version 1.5 puts frames in front that decoding discards: the first of the video comes after them.
    padded = shapes((4, 4, 4, 6), (4, 4, 4, 6), num_frames=9)
    assert weights(cogvideox("1.5 i2v"), padded, 0.5) == ((4, 1, 1, 1), [0, 0.5, 1, 1])
    channels, frames, *cells = latent_shape("i2v")
    wan = load_family(build(tmp_path / "i2v", "i2v"), torch.float32)
    joined = shapes((channels, frames, *cells), (channels + 4, frames, *cells))
    assert weights(wan, joined, 0.5) == ((1, frames, 1, 1), [0.5, *[1.0] * (frames - 1)])


def test_a_frame_that_is_kept_clean_has_nothing_to_weigh(tmp_path: Path) -> None:
    family = load_family(build(tmp_path / "ti2v", "ti2v"), torch.float32)
    latent = latent_shape("ti2v")
    given = PairShapes(latent=latent, prompt=(TOKENS, 16), image=(CHANNELS, 1, *latent[2:]))
    for weight in (0.0, 1.0):
        assert family.loss_weight(given, weight).flatten()[0] == 0
    with pytest.raises(UserError, match=r"keeps the first latent frame clean .* leave it at 1"):
        family.loss_weight(given, 2.0)
    with pytest.raises(UserError, match="must be 1 for pairs without a first frame, got 0"):
        family.loss_weight(PairShapes(latent=latent, prompt=(TOKENS, 16)), 0.0)


def test_weights_that_cannot_be(
    make_transformer: Callable[..., Any],
    make_config: Callable[..., TrainConfig],
    make_pairs: Callable[..., Any],
) -> None:
    text = CogVideoXFamily(make_transformer(**KINDS["5b"].transformer), make_scheduler(KINDS["5b"]))
    with pytest.raises(UserError, match=r"must be 1 for pairs without a first frame, got 0.5"):
        text.loss_weight(shapes(image=None), 0.5)
    world = CogVideoXFamily(make_transformer(), make_scheduler(KINDS["world"]))
    with pytest.raises(UserError, match="above 0 for latents of 1 frame"):
        world.loss_weight(shapes((1, 4, 4, 6)), 0.0)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="first_frame_weight must be a finite number >= 0"):
            make_config(first_frame_weight=bad)
    # The dry run refuses it too, before weights are loaded.
    with pytest.raises(UserError, match="above 0 for latents of 1 frame"):
        estimate(make_config(first_frame_weight=0.0), make_pairs(2, (1, 4, 4, 6)))


def test_the_card_and_the_configuration_tell_it(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config = make_config(steps=1, warmup=0, first_frame_weight=0.5)
    result = train(config, source=make_pairs(2))
    assert "| first_frame_weight | 0.5 |" in (result.adapter_dir / "README.md").read_text()
    assert json.loads((config.out_dir / "config.json").read_text())["first_frame_weight"] == 0.5
