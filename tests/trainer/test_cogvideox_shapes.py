"""Which pairs a CogVideoX takes, which of their elements count, and which models are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from storage.errors import UserError
from tests.trainer.cogvideox_kinds import KINDS, make_scheduler, run_pipeline
from trainer.families import load_family
from trainer.families.base import Condition, PairShapes
from trainer.families.cogvideox import CogVideoXFamily
from trainer.step import Noised, per_sample_mse
from trainer.train import train

PROMPT = (5, 12)


@pytest.fixture
def make_family(make_transformer: Callable[..., Any]) -> Callable[[str], CogVideoXFamily]:
    def make(name: str) -> CogVideoXFamily:
        kind = KINDS[name]
        return CogVideoXFamily(make_transformer(**kind.transformer), make_scheduler(kind))

    return make


def shapes(latent: tuple[int, ...], image: tuple[int, ...] | None = None, **changes: Any) -> PairShapes:
    return PairShapes(**({"latent": latent, "prompt": PROMPT, "image": image} | changes))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "world",
            shapes((3, 16, 4, 6)),
            r"latents of shape \[3, 16, 4, 6\], this model takes \[F, 4, H, W\]",
        ),
        ("world", shapes((3, 4, 5, 6)), "H and W divisible by 2"),
        (
            "world",
            shapes((3, 4, 4, 6), prompt=(5, 13)),
            r"prompt embeddings of shape \[5, 13\], this model takes \[L, 12\]",
        ),
        ("world", shapes((3, 4, 4, 6)), r"image latents of shape None, .* image-to-video"),
        ("world", shapes((3, 4, 4, 6), (2, 4, 4, 6)), r"image latents of shape \[2, 4, 4, 6\]"),
        ("5b", shapes((3, 4, 4, 6), (1, 4, 4, 6)), r"none \(a text-to-video model\)"),
        ("5b i2v", shapes((3, 4, 6, 4), (1, 4, 6, 4)), r"exactly \(3, 4, 4, 6\) \(learned positions\)"),
        ("5b i2v", shapes((4, 4, 4, 6), (1, 4, 4, 6)), "learned positions"),
        ("5b i2v", shapes((3, 4, 4, 6), (1, 4, 4, 6), prompt=(4, 12)), "takes 5 tokens"),
        ("2b", shapes((3, 4, 4, 6), prompt=(4, 12)), "takes 5 tokens"),
        ("1.5", shapes((3, 4, 4, 6), num_frames=9), "F divisible by 2"),
        ("1.5", shapes((4, 4, 4, 22), num_frames=9), r"H and W up to \(20, 20\)"),
        ("1.5", shapes((4, 4, 4, 6), num_frames=17), "takes 5 latent frames, padded to a multiple of 2"),
        ("1.5", shapes((4, 4, 4, 6), num_frames=5), "takes 2 latent frames, padded to a multiple of 2"),
        ("1.5", shapes((4, 4, 4, 6)), "do not tell how many frames .* run `gpa pair` again"),
    ],
)
def test_pairs_of_another_shape_are_refused(
    name: str, given: PairShapes, message: str, make_family: Callable[[str], CogVideoXFamily]
) -> None:
    with pytest.raises(UserError, match=message):
        make_family(name).check(given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("2b", shapes((2, 4, 6, 4))),
        ("5b", shapes((2, 4, 6, 4), prompt=(9, 12))),
        ("5b i2v", shapes((3, 4, 4, 6), (1, 4, 4, 6))),
        ("5b i2v", shapes((3, 4, 4, 6), (3, 4, 4, 6))),
        ("1.5", shapes((4, 4, 20, 20), num_frames=9)),
        ("1.5 i2v", shapes((4, 4, 4, 6), (4, 4, 4, 6), num_frames=13)),
    ],
)
def test_pairs_that_fit_are_taken(
    name: str, given: PairShapes, make_family: Callable[[str], CogVideoXFamily]
) -> None:
    make_family(name).check(given)


def test_only_the_frames_in_front_that_decoding_discards_do_not_count(
    make_family: Callable[[str], CogVideoXFamily],
) -> None:
    family = make_family("1.5")
    counted = family.loss_weight(shapes((4, 4, 4, 6), num_frames=9))
    assert counted is not None
    assert counted.flatten().tolist() == [0, 1, 1, 1]
    assert family.loss_weight(shapes((4, 4, 4, 6), num_frames=13)) is None
    assert make_family("5b").loss_weight(shapes((4, 4, 4, 6))) is None
    with pytest.raises(UserError, match="run `gpa pair` again"):
        family.loss_weight(shapes((4, 4, 4, 6)))


def test_the_error_of_a_padded_video_is_that_of_its_own_frames(
    make_transformer: Callable[..., Any],
) -> None:
    transformer, recorded = run_pipeline(KINDS["1.5"], make_transformer, (32, 48))
    inputs, predicted = recorded.calls[1]
    family = CogVideoXFamily(transformer, make_scheduler(KINDS["1.5"]))
    target = torch.randn(predicted.shape, generator=torch.Generator().manual_seed(0))

    def error(target_NX: Tensor) -> float:
        given = Noised(
            noised_NX=inputs["hidden_states"],
            target_NX=target_NX,
            timestep_N=inputs["timestep"],
            condition=Condition(prompt_BLD=inputs["encoder_hidden_states"]),
            loss_weight_X=family.loss_weight(shapes(tuple(predicted.shape[1:]), num_frames=9)),
        )
        with torch.no_grad():
            return per_sample_mse(family, family.transformer, given).item()

    expected = (predicted[:, 1:] - target[:, 1:]).square().mean().item()
    assert error(target) == pytest.approx(expected, rel=1e-5)
    other = target.clone()
    other[:, 0] += 100
    assert error(other) == error(target)
    other[:, 1] += 100
    assert error(other) > 100


def test_a_training_of_version_1_5_runs_and_needs_the_number_of_frames(
    make_transformer: Callable[..., Any],
    make_model: Callable[..., Path],
    make_config: Callable[..., Any],
    make_pairs: Callable[..., Any],
    tmp_path: Path,
) -> None:
    folder = make_model(tmp_path / "model", make_transformer(**KINDS["1.5 i2v"].transformer))
    pairs = make_pairs(2, (4, 4, 4, 6))
    config = make_config(model_dir=folder, steps=2, warmup=0)
    with pytest.raises(UserError, match="do not tell how many frames"):
        train(config, source=pairs)
    for row in pairs.rows:
        row.num_frames = 9
    losses: list[float] = []
    train(config, lambda step, metrics: losses.append(metrics["loss"]), source=pairs)
    assert len(losses) == 2


def test_unsupported_models_are_refused(
    make_transformer: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    scheduler = make_scheduler(KINDS["5b"])
    sample = type(scheduler).from_config(scheduler.config, prediction_type="sample")
    with pytest.raises(UserError, match="predicts 'sample'"):
        CogVideoXFamily(make_transformer(), sample)
    with pytest.raises(UserError, match="not a diffusers model folder"):
        load_family(tmp_path, torch.float32)
    directory = make_model(tmp_path / "other", make_transformer())
    index = directory / "model_index.json"
    index.write_text(index.read_text().replace("CogVideoXTransformer3DModel", "UNet2DModel"))
    with pytest.raises(UserError, match="class UNet2DModel, which cannot be trained"):
        load_family(directory, torch.float32)
    index.write_text(index.read_text().replace("UNet2DModel", "CogVideoXTransformer3DModel"))
    weights = directory / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_family(directory, torch.float32)
