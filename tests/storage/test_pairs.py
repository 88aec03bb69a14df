"""Pair shards carry their tensors and are read one pair at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from storage.errors import UserError
from storage.media.tensors import read_tensors, write_tensors
from storage.mining.rules import PairRules
from storage.pairs.dataset import PairDataset
from storage.pairs.writer import write_pair_shards
from storage.run import Run
from storage.sql.views import connect
from storage.tables.ids import split_of
from storage.tables.records import Candidate
from storage.tables.schemas import TABLES, default_columns
from storage.tables.shards import read_rows, shard_files, write_shard
from tests.storage.builders import run_with_pairs
from tests.storage.mined import mine_pairs

RULES = PairRules(reward="reprojection", reward_version="v1")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_with_pairs(tmp_path / "run", prompts=11)


def written(run: Run, **changes: Any) -> list[Path]:
    return write_pair_shards(run, mine_pairs(run, RULES).rows, **changes)


def test_a_pair_is_what_the_sampler_left(run: Run) -> None:
    written(run)
    dataset = PairDataset(run.shard_dir("pairs"))
    assert len(dataset) == 11
    assert (dataset.model, dataset.revision, dataset.latent_shape) == ("world", "r1", (2, 4, 6, 6))
    for row in dataset:
        for member, tensor in ((row.winner_id, row.winner_latents), (row.loser_id, row.loser_latents)):
            assert torch.equal(tensor, read_tensors(run.resolve(run.latent_uri(member)))["latents"])
        condition = read_tensors(run.resolve(run.condition_uri(row.prompt_id)))
        assert torch.equal(row.prompt_embeds, condition["prompt_embeds"])
        assert row.image_latents is not None
        assert torch.equal(row.image_latents, condition["image_latents"])
        assert row.winner_value > row.loser_value
    ids = [row.pair_id for row in dataset]
    assert ids == sorted(set(ids))


def test_shards_have_small_groups_and_the_run_is_not_needed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.pairs.writer.ROWS_PER_SHARD", 8)
    paths = written(run)
    sizes = [
        [shard.row_group(i).num_rows for i in range(shard.num_row_groups)]
        for shard in map(pq.read_metadata, paths)
    ]
    assert sorted(sizes) == [[3], [4, 4]]
    run.shard_dir("pairs").rename(tmp_path / "elsewhere")
    dataset = PairDataset(tmp_path / "elsewhere")
    assert [dataset.read(i).pair_id for i in (10, 0, 7, 3)] == [
        dataset.table["pair_id"][i].as_py() for i in (10, 0, 7, 3)
    ]
    with pytest.raises(IndexError, match=r"must be in \[0, 11\), got 11"):
        dataset.read(11)


def test_writing_again_changes_nothing_and_another_selection_replaces(run: Run) -> None:
    first = written(run)
    times = [path.stat().st_mtime_ns for path in first]
    assert written(run) == first
    assert [path.stat().st_mtime_ns for path in first] == times
    fewer = mine_pairs(run, RULES).rows.slice(0, 5)
    second = write_pair_shards(run, fewer)
    assert shard_files(run.shard_dir("pairs")) == second != first
    assert len(PairDataset(run.shard_dir("pairs"))) == 5


def test_a_stopped_writer_leaves_whole_shards_and_is_finished(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.pairs.writer.ROWS_PER_SHARD", 4)
    rows = mine_pairs(run, RULES).rows
    victim = run.resolve(run.latent_uri(rows["winner_id"][9].as_py()))
    kept = victim.read_bytes()
    victim.unlink()
    with pytest.raises(UserError, match=f"{victim} cannot be read as safetensors"):
        write_pair_shards(run, rows)
    assert len(PairDataset(run.shard_dir("pairs"))) == 8
    assert not list(run.shard_dir("pairs").glob(".*"))
    victim.write_bytes(kept)
    assert len(write_pair_shards(run, rows)) == 3
    assert len(PairDataset(run.shard_dir("pairs"))) == 11


def test_an_index_has_the_rows_but_no_tensors(run: Run, tmp_path: Path) -> None:
    written(run, directory=tmp_path / "index", index_only=True)
    written(run)
    index, full = read_rows(tmp_path / "index", "pairs"), run.rows("pairs")
    assert index.schema.names == default_columns("pairs")
    assert index.equals(full)
    assert run.rows("pairs", ["pair_id", "winner_latents"])["winner_latents"][0].as_py()["dtype"] == "float32"
    with pytest.raises(UserError, match="'winner_latents': these pairs were written without tensors"):
        PairDataset(tmp_path / "index")


def test_the_view_of_pairs_has_the_tables_columns(run: Run) -> None:
    written(run)
    with connect(run) as connection:
        described = connection.execute("DESCRIBE pairs").fetchall()
        count = connection.execute(
            "SELECT count(*), sum(octet_length(winner_latents.data)) FROM pairs"
        ).fetchall()
    assert [row[0] for row in described] == TABLES["pairs"].names
    assert count == [(11, 11 * 2 * 4 * 6 * 6 * 4)]


def test_a_split_is_a_split_of_scenes(run: Run) -> None:
    written(run)
    taken = {}
    for split in ("train", "val", "test"):
        if any(split_of(f"scene-p{number:03}") == split for number in range(11)):
            taken[split] = {row.scene_id for row in PairDataset(run.shard_dir("pairs"), split)}
        else:
            with pytest.raises(UserError, match=f"no pairs of split '{split}'"):
                PairDataset(run.shard_dir("pairs"), split)
    assert all(split_of(scene) == split for split, scenes in taken.items() for scene in scenes)
    assert sum(map(len, taken.values())) == 11


def test_a_limit_takes_the_first_by_id_and_larger_ones_hold_smaller_ones(run: Run) -> None:
    written(run)
    everything = [row.pair_id for row in PairDataset(run.shard_dir("pairs"))]
    for limit in (1, 3, 100):
        taken = [row.pair_id for row in PairDataset(run.shard_dir("pairs"), limit=limit)]
        assert taken == sorted(everything)[:limit]


def test_text_to_video_has_no_image_latents(run: Run) -> None:
    for number in range(11):
        path = run.resolve(run.condition_uri(f"p{number:03}"))
        write_tensors(path, {"prompt_embeds": torch.ones(3, 5, dtype=torch.bfloat16)}, {})
    written(run)
    row = PairDataset(run.shard_dir("pairs")).read(0)
    assert row.image_latents is None
    assert row.prompt_embeds.dtype == torch.bfloat16


def test_latents_of_two_shapes_are_refused(run: Run) -> None:
    write_tensors(run.resolve(run.latent_uri("p003-c1")), {"latents": torch.zeros(2, 4, 8, 8)}, {})
    with pytest.raises(
        UserError, match=r"p003-c0 and p003-c1 have latents of shape \(2, 4, 6, 6\) and \(2, 4, 8, 8\)"
    ):
        written(run)
    write_tensors(run.resolve(run.latent_uri("p003-c0")), {"latents": torch.zeros(2, 4, 8, 8)}, {})
    written(run)
    with pytest.raises(UserError, match=r"more than one latent shape .*: pair them apart"):
        PairDataset(run.shard_dir("pairs"))


def test_missing_names_and_missing_latents_are_named(run: Run) -> None:
    path = run.resolve(run.condition_uri("p004"))
    write_tensors(path, {"embeds": torch.zeros(2)}, {})
    with pytest.raises(UserError, match=f"{path} holds embeds but no tensor 'prompt_embeds'"):
        written(run)
    rows = run.rows("candidates").to_pylist()
    for file in shard_files(run.shard_dir("candidates")):
        file.unlink()
    bare = [Candidate(**(row | {"latent_uri": None})) for row in rows]
    write_shard(run.shard_dir("candidates"), "candidates", bare)
    with pytest.raises(UserError, match=r"has no latents .*or pair with index_only"):
        written(run)


def test_no_rows_and_no_shards_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pair shards need at least one row"):
        write_pair_shards(run, mine_pairs(run, RULES).rows.slice(0, 0))
    with pytest.raises(UserError, match=f"no pair shards in {tmp_path}/none: run gpa pair first"):
        PairDataset(tmp_path / "none")


def test_not_finite_latents_in_a_shard_are_named(run: Run) -> None:
    (path,) = written(run)
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[2]["loser_latents"]["data"] = b"\xff" * len(rows[2]["loser_latents"]["data"])
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    dataset = PairDataset(run.shard_dir("pairs"))
    dataset.read(1)
    with pytest.raises(UserError, match=f"{path}: pair .* not usable .loser_latents holds NaN or infinity"):
        dataset.read(2)


def test_a_damaged_shard_is_named_and_rewritten(run: Run) -> None:
    (path,) = written(run)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path} is not a readable Parquet file"):
        PairDataset(run.shard_dir("pairs"))
    # The same command repairs it: a shard that is not whole is not taken for done.
    assert written(run) == [path]
    assert len(PairDataset(run.shard_dir("pairs"))) == 11


def test_a_user_query_reaches_no_other_file(run: Run, tmp_path: Path) -> None:
    import duckdb

    (tmp_path / "secret.txt").write_text("secret")
    with connect(run) as connection:
        assert connection.execute("SELECT count(*) FROM candidates").fetchall() == [(22,)]
        with pytest.raises(duckdb.PermissionException):
            connection.execute("SELECT * FROM read_text(?)", [str(tmp_path / "secret.txt")])
        with pytest.raises(duckdb.Error):
            connection.execute("SET enable_external_access = true")
