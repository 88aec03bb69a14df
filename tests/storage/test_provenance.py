from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import UserError
from storage.hub.provenance import GeometrySource, pair_provenance
from storage.run import Run
from storage.tables.records import Pair
from storage.tables.shards import write_shard
from tests.storage.builders import score


def pair(number: int, split: str = "train", **changes: object) -> Pair:
    given = {
        "pair_id": f"pair-{number}",
        "prompt_id": f"p{number // 2}",
        "scene_id": "s0",
        "split": split,
        "text": "a room",
        "winner_id": f"w{number}",
        "loser_id": f"l{number}",
        "winner_value": -0.1,
        "loser_value": -0.5,
        "gap": 0.1 * (number + 1),
        "reward": "reprojection",
        "reward_version": "v1",
        "winner_motion": None,
        "loser_motion": None,
        "model": "world",
        "revision": "r1",
    }
    return Pair(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create_or_open(tmp_path / "run")
    rows = [pair(0), pair(1), pair(2), pair(3, "val")]
    write_shard(run.shard_dir("pairs"), "pairs", rows)
    return run


def test_counts_are_of_the_split_and_splits_of_the_directory(run: Run) -> None:
    found = pair_provenance(run, run.shard_dir("pairs"), "train")
    assert found is not None
    assert (found.pairs, found.prompts, found.scenes) == (3, 2, 1)
    assert found.splits == {"train": 3, "val": 1}
    assert (found.gap_min, found.gap_median, found.gap_max) == pytest.approx((0.1, 0.2, 0.3))
    assert found.rewards == (("reprojection", "v1"),)
    everything = pair_provenance(run, run.shard_dir("pairs"), None)
    assert everything is not None
    assert everything.pairs == 4
    limited = pair_provenance(run, run.shard_dir("pairs"), "train", 2)
    assert limited is not None
    assert (limited.pairs, limited.prompts, limited.gap_max) == (2, 1, pytest.approx(0.2))
    assert pair_provenance(run, run.shard_dir("pairs"), "test") is None
    assert pair_provenance(run, run.path / "nowhere", None) is None


def test_geometry_is_that_of_the_scores_of_the_very_reward(run: Run) -> None:
    unscored = pair_provenance(run, run.shard_dir("pairs"), None)
    assert unscored is not None
    assert (unscored.scores_known, unscored.geometry) == (False, ())
    vggt = {"geometry_model": "facebook/VGGT-1B", "geometry_revision": "abc", "geometry_license": "CC BY-NC"}
    other = {"geometry_model": "other", "geometry_revision": "r", "geometry_license": "MIT"}
    rows = [
        score("w0", **vggt),
        score("l0", **vggt),
        score("w0", reward_version="v2", **other),
        score("w0", reward="epipolar"),
    ]
    write_shard(run.shard_dir("scores"), "scores", rows)
    found = pair_provenance(run, run.shard_dir("pairs"), None)
    assert found is not None
    assert found.scores_known
    assert found.geometry == (GeometrySource(model="facebook/VGGT-1B", revision="abc", license="CC BY-NC"),)


def test_a_reward_without_geometry_is_known_to_have_none(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    write_shard(run.shard_dir("pairs"), "pairs", [pair(0, reward="epipolar")])
    write_shard(run.shard_dir("scores"), "scores", [score("w0", reward="epipolar")])
    found = pair_provenance(run, run.shard_dir("pairs"), None)
    assert found is not None
    assert (found.scores_known, found.geometry) == (True, ())


def test_a_damaged_shard_is_named(run: Run) -> None:
    path = next(run.shard_dir("pairs").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=path.name):
        pair_provenance(run, run.shard_dir("pairs"), None)
