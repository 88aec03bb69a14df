"""Reading a pair again: from the place that was found, with the same bytes, and never from a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from storage.errors import UserError
from storage.mining.rules import PairRules
from storage.pairs.dataset import PairDataset, PairRow
from storage.pairs.shard import PairShard
from storage.pairs.writer import write_pair_shards
from storage.run import Run
from tests.storage.builders import run_with_pairs
from tests.storage.mined import mine_pairs

TENSORS = ("winner_latents", "loser_latents", "prompt_embeds", "image_latents")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A row group for every pair, as large models have.
    monkeypatch.setattr("storage.pairs.writer.GROUP_BYTES", 1)
    run: Run = run_with_pairs(tmp_path / "run", prompts=5)
    rules = PairRules(reward="reprojection", reward_version="v1", min_gap=0.01, split=None)
    write_pair_shards(run, mine_pairs(run, rules).rows)
    return run.shard_dir("pairs")


def same(one: PairRow, other: PairRow) -> bool:
    return one.pair_id == other.pair_id and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS
    )


def test_later_reads_are_the_first_and_can_be_written_to(directory: Path) -> None:
    dataset = PairDataset(directory)
    first = list(dataset)
    assert len(first) == 5
    assert all(len(shard._known) == 5 for shard in dataset._shards)
    again = list(dataset)
    assert all(map(same, first, again))
    again[0].winner_latents.zero_()
    assert same(dataset.read(0), first[0])


def test_groups_of_several_rows_are_decoded_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.pairs.writer.GROUP_BYTES", 2**30)
    run = run_with_pairs(tmp_path / "other", prompts=4)
    rules = PairRules(reward="reprojection", reward_version="v1", min_gap=0.01, split=None)
    write_pair_shards(run, mine_pairs(run, rules).rows)
    dataset = PairDataset(run.shard_dir("pairs"))
    first, again = list(dataset), list(dataset)
    assert len(first) == 4
    assert all(map(same, first, again))
    assert not any(shard._known for shard in dataset._shards)


def test_closed_files_are_opened_again(directory: Path) -> None:
    dataset = PairDataset(directory)
    first = list(dataset)
    for shard in dataset._shards:
        shard.close()
    assert all(map(same, first, dataset))


def test_a_place_that_does_not_hold_the_bytes_is_not_kept(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.pairs.shard.os.pread", lambda _, size, __: bytes(size))
    dataset = PairDataset(directory)
    first = list(dataset)
    assert not any(shard._known for shard in dataset._shards)
    assert all(map(same, first, dataset))


def test_a_file_that_was_cut_since_is_named(directory: Path) -> None:
    (path,) = directory.glob("*.parquet")
    shard = PairShard(path)
    shard.read(4)
    assert shard._known
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"is not a readable Parquet file"):
        shard.read(4)
