"""Exported pairs: a folder that the Hub and plain Parquet readers take, naming no place on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.pairing import run_pair
from storage.errors import UserError
from storage.hub.columns import ADDED
from storage.hub.export import export_pairs
from storage.mining.rules import PairRules, PairSettings
from storage.pairs.dataset import PairDataset
from storage.run import Run
from storage.tables.records import Candidate
from storage.tables.schemas import TABLES, default_columns
from storage.tables.shards import shard_files, write_shard
from tests.storage.builders import run_with_pairs, score


def paired(
    path: Path, *, index_only: bool = False, model: str = "world", licences: tuple[str, ...] = ("mit",)
) -> Run:
    """Pairs of 14 prompts in shards of 5, scored by geometry models of these licences."""
    run = run_with_pairs(path, 14)
    rows = run.rows("candidates").to_pylist()
    for table in ("candidates", "scores"):
        for shard in shard_files(run.shard_dir(table)):
            shard.unlink()
    changed = [Candidate(**(row | {"model": model})) for row in rows]
    write_shard(run.shard_dir("candidates"), "candidates", changed)
    scores = [
        dataclasses.replace(
            score(row["candidate_id"], -0.1 * (1 + int(row["candidate_id"][-1]))),
            geometry_model=f"{path}/nets/vggt-{number % len(licences)}",
            geometry_revision="r7",
            geometry_license=licences[number % len(licences)],
        )
        for number, row in enumerate(rows)
    ]
    write_shard(run.shard_dir("scores"), "scores", scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.pairs.writer.ROWS_PER_SHARD", 5)
        run_pair(run, PairSettings(rules=PairRules(min_gap=0.0), index_only=index_only))
    return run


def metadata(folder: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


def test_the_pairs_are_all_there_by_split(tmp_path: Path) -> None:
    run = paired(tmp_path / "run")
    done = export_pairs(run, tmp_path / "out")
    old = {row.pair_id: row for row in PairDataset(run.shard_dir("pairs"))}
    new = {row.pair_id: row for row in PairDataset(tmp_path / "out" / "data")}
    assert set(old) == set(new)
    assert all(torch.equal(old[name].winner_latents, new[name].winner_latents) for name in old)
    assert sum(done.splits.values()) == 14
    assert done.tensors
    assert done.files == len(shard_files(tmp_path / "out" / "data"))
    for path in shard_files(tmp_path / "out" / "data"):
        held = set(pq.read_table(path, columns=["split"])["split"].to_pylist())
        assert held == {path.name.partition("-")[0]}
        shard = pq.read_metadata(path)
        assert max(shard.row_group(number).num_rows for number in range(shard.num_row_groups)) <= 4


def test_the_card_names_counts_terms_and_files(tmp_path: Path) -> None:
    run = paired(tmp_path / "run", licences=("CC-BY-NC-4.0",))
    done = export_pairs(run, tmp_path / "out")
    head = metadata(tmp_path / "out")
    assert head["license"] == "cc-by-nc-4.0"
    assert head["size_categories"] == ["n<1K"]
    (config,) = head["configs"]  # type: ignore[misc]
    names = {"train": "train", "val": "validation", "test": "test"}
    assert {one["split"] for one in config["data_files"]} == {names[split] for split in done.splits}
    for one in config["data_files"]:
        assert list((tmp_path / "out").glob(one["path"]))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| vggt-0 | r7 | CC-BY-NC-4.0 |" in text
    assert "14 pairs" in text
    assert all(f"| {name} |" in text for name in (*TABLES["pairs"].names, *ADDED.names))
    assert "both sampled by `world`" in text
    assert "imported (made" not in text


def test_several_licences_and_unknown_ones_are_not_made_one(tmp_path: Path) -> None:
    run = paired(tmp_path / "run", licences=("mit", "cc-by-nc-4.0"))
    export_pairs(run, tmp_path / "out")
    assert metadata(tmp_path / "out")["license"] == "other"
    for path in shard_files(run.shard_dir("scores")):
        path.unlink()
    export_pairs(run, tmp_path / "without")
    assert metadata(tmp_path / "without")["license"] == "other"
    assert "not at hand" in (tmp_path / "without" / "README.md").read_text()


@pytest.mark.parametrize("index_only", [False, True])
def test_nothing_names_a_place_on_this_machine(tmp_path: Path, index_only: bool) -> None:
    run = paired(tmp_path / "run", index_only=index_only, model=f"{tmp_path}/models/cogvideox")
    export_pairs(run, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes()
            assert "/" not in path.name
    rows = ds.dataset(tmp_path / "out" / "data").to_table(columns=["model"])
    assert set(rows["model"].to_pylist()) == {"cogvideox"}


def test_an_index_is_exported_without_tensors(tmp_path: Path) -> None:
    run = paired(tmp_path / "run", index_only=True)
    done = export_pairs(run, tmp_path / "out")
    assert not done.tensors
    assert ds.dataset(tmp_path / "out" / "data").schema.names == [*default_columns("pairs"), *ADDED.names]
    text = (tmp_path / "out" / "README.md").read_text()
    assert "winner_latents" not in text


def test_any_duckdb_and_any_arrow_read_the_shards(tmp_path: Path) -> None:
    run = paired(tmp_path / "run")
    export_pairs(run, tmp_path / "out")
    for folder in (run.shard_dir("pairs"), tmp_path / "out" / "data"):
        with duckdb.connect() as connection:
            sql = f"SELECT count(*), sum(octet_length(winner_latents.data)) FROM '{folder}/*.parquet'"
            assert connection.execute(sql).fetchall() == [(14, 14 * 2 * 4 * 6 * 6 * 4)]
        assert ds.dataset(folder).to_table().num_rows == 14


def test_the_datasets_library_reads_shards_and_export(tmp_path: Path) -> None:
    import datasets

    run = paired(tmp_path / "run")
    done = export_pairs(run, tmp_path / "out")
    for table, rows in (("prompts", 14), ("candidates", 28), ("scores", 28), ("pairs", 14)):
        files = [str(path) for path in shard_files(run.shard_dir(table))]
        read = datasets.load_dataset(
            "parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train"
        )
        assert (len(read), set(read.column_names)) == (rows, set(TABLES[table].names))
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    names = {"train": "train", "val": "validation", "test": "test"}
    assert {split: len(part) for split, part in loaded.items()} == {
        names[split]: count for split, count in done.splits.items()
    }
    split = next(iter(loaded))
    blob = loaded[split][0]["winner_latents"]
    tensor = torch.frombuffer(bytearray(blob["data"]), dtype=getattr(torch, blob["dtype"])).reshape(
        blob["shape"]
    )
    old = {row.pair_id: row for row in PairDataset(run.shard_dir("pairs"))}
    assert torch.equal(tensor, old[loaded[split][0]["pair_id"]].winner_latents)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", 2)
    with pytest.raises(UserError, match=r"there are no pairs in .*: run gpa pair first"):
        export_pairs(run, tmp_path / "out")
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for place in (tmp_path / "full", tmp_path / "full" / "x"):
        with pytest.raises(UserError, match="is there and not an empty folder: give a new one"):
            export_pairs(run, place)
    (path,) = shard_files(run.shard_dir("pairs"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        export_pairs(run, tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()
