"""Order, draws, and real pair shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import UserError
from storage.media.tensors import from_tensor
from storage.tables.records import Pair
from storage.tables.shards import write_shard
from trainer.config import TrainConfig
from trainer.data import PairBatch, PairLoader, draw, open_pairs, pair_indices, pairs_fingerprint
from trainer.families.base import Condition
from trainer.train import train


def write_pairs(directory: Path, rows: list[Any], *, split: str = "train", model: str = "tiny") -> Path:
    records = [
        Pair(
            pair_id=row.pair_id,
            prompt_id="prompt",
            scene_id="scene",
            split=split,
            text="a room",
            winner_id=f"{row.pair_id}-w",
            loser_id=f"{row.pair_id}-l",
            winner_value=-0.1,
            loser_value=-0.2,
            gap=0.1,
            reward="reprojection",
            reward_version="1",
            winner_motion=1.0,
            loser_motion=1.0,
            model=model,
            revision="r1",
            winner_latents=from_tensor(row.winner_latents),
            loser_latents=from_tensor(row.loser_latents),
            prompt_embeds=from_tensor(row.prompt_embeds),
            image_latents=from_tensor(row.image_latents),
        )
        for row in rows
    ]
    return write_shard(directory, "pairs", records)


def test_every_epoch_shows_every_pair_once_in_another_order() -> None:
    indices = pair_indices(0, 7, 0, 21)
    epochs = [indices[0:7], indices[7:14], indices[14:21]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert pair_indices(0, 7, 5, 6) == indices[5:11]
    assert pair_indices(1, 7, 0, 21) != indices


def test_draws_depend_on_seed_step_and_slot_only() -> None:
    noise, timestep = draw(3, 5, range(4), (2, 3), (10, 12))
    part, part_timestep = draw(3, 5, [2, 3], (2, 3), (10, 12))
    assert torch.equal(noise[2:], part)
    assert torch.equal(timestep[2:], part_timestep)
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, draw(3, 6, range(4), (2, 3), (10, 12))[0])
    assert not torch.equal(noise, draw(4, 5, range(4), (2, 3), (10, 12))[0])


def test_draws_are_standard_normal_and_cover_the_timesteps() -> None:
    noise, timestep = draw(0, 0, range(600), (64,), (10, 12))
    assert noise.mean().abs() < 0.02
    assert abs(noise.std() - 1) < 0.02
    counts = Counter(timestep.tolist())
    assert set(counts) == {10, 11, 12}
    assert min(counts.values()) > 150


def test_rows_are_read_once_while_the_set_is_small(make_pairs: Callable[..., Any]) -> None:
    class Counting(type(make_pairs(1))):  # type: ignore[misc]
        reads = 0

        def read(self, index: int) -> Any:
            Counting.reads += 1
            return super().read(index)

    pairs = Counting(make_pairs(4).rows)
    loader = PairLoader(pairs, torch.device("cpu"))
    for _ in range(3):
        loader.batch([0, 1, 2, 3])
    assert Counting.reads == 1 + 4
    uncached = PairLoader(pairs, torch.device("cpu"), cache_bytes=0)
    for _ in range(3):
        uncached.batch([0, 1])
    assert Counting.reads == 5 + 1 + 6


def test_winner_and_loser_of_a_batch_must_have_one_shape() -> None:
    with pytest.raises(
        ValueError, match=r"one shape with five axes, got \[1, 2, 3, 4, 4\] and \[1, 1, 3, 4, 4\]"
    ):
        PairBatch(
            pair_ids=("a",),
            winner_BX=torch.zeros(1, 2, 3, 4, 4),
            loser_BX=torch.zeros(1, 1, 3, 4, 4),
            condition=Condition(prompt_BLD=torch.zeros(1, 2, 3)),
        )


@pytest.mark.parametrize("first", [0, 1])
def test_pairs_with_and_without_a_first_frame_are_not_mixed(
    make_pairs: Callable[..., Any], first: int
) -> None:
    pairs = make_pairs(2)
    pairs.rows[first] = replace(pairs.rows[first], image_latents=None)
    loader = PairLoader(pairs, torch.device("cpu"))
    with pytest.raises(UserError, match=r"pair pair-1 has image_latents.*: pair again, with candidates of"):
        loader.batch([0, 1])


def test_training_on_real_shards_is_training_on_their_tensors(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs, config = make_pairs(5), make_config("shards")
    write_pairs(config.pairs_dir, pairs.rows[:2])
    write_pairs(config.pairs_dir, pairs.rows[2:])
    losses: list[list[float]] = [[], []]
    train(config, lambda _, m: losses[0].append(m["loss"]))
    train(make_config("memory"), lambda _, m: losses[1].append(m["loss"]), source=pairs)
    assert losses[0] == losses[1]
    shards = open_pairs(config.pairs_dir, "train")
    assert pairs_fingerprint(shards) == pairs_fingerprint(pairs)


def test_pairs_of_another_split_are_left_out(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs, config = make_pairs(5), make_config()
    write_pairs(config.pairs_dir, pairs.rows[:3], split="test")
    with pytest.raises(UserError, match="no pairs of split 'train'"):
        train(config)
    write_pairs(config.pairs_dir, pairs.rows[3:])
    assert len(open_pairs(config.pairs_dir, "train")) == 2
    assert len(open_pairs(config.pairs_dir, None)) == 5


def test_shards_of_another_model_and_empty_directories_are_refused(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config = make_config()
    config.pairs_dir.mkdir()
    with pytest.raises(UserError, match="no pair shards"):
        train(config)
    path = write_pairs(config.pairs_dir, make_pairs(2).rows, model="other")
    with pytest.raises(UserError, match="sampled from model other, the model to train is model tiny"):
        train(config)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=path.name):
        train(config)
