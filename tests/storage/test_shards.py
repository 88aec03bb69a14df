"""Rows come back as written, once each, whatever the order and the number of writes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.tables.records import Candidate, Pair, Prompt, Record, Reject, Score
from storage.tables.schemas import KEYS, TABLES, stamped
from storage.tables.shards import keep_only, one_per_key, read_rows, read_shard, shard_files, write_shard
from tests.storage.builders import candidate, prompt, score

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def scores(draw: st.DrawFn) -> Score:
    frames = draw(st.integers(0, 3))
    value = draw(st.none() | FINITE)
    return Score(
        candidate_id=draw(TEXT),
        reward=draw(st.sampled_from(["reprojection", "epipolar"])),
        reward_version=draw(TEXT),
        value=value,
        reason=draw(TEXT) if value is None else None,
        mse=draw(st.none() | FINITE),
        frame_indices=list(range(frames)),
        frame_errors=draw(st.none() | st.lists(FLOAT32, max_size=3)),
        w2c=draw(st.none() | st.lists(FLOAT32, min_size=12 * frames, max_size=12 * frames)),
    )


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    return prompt(
        draw(TEXT),
        draw(TEXT),
        text=draw(TEXT),
        camera_motion=draw(st.lists(TEXT, max_size=3)),
        image_uri=draw(st.none() | TEXT),
    )


def key_of(table: str, row: Record | dict[str, Any]) -> tuple[str, ...]:
    get = row.get if isinstance(row, dict) else lambda name: getattr(row, name)
    return tuple(str(get(name)) for name in KEYS[table])


@pytest.mark.parametrize(("table", "rows"), [("scores", scores()), ("prompts", prompts())])
def test_rows_come_back_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, table: str, rows: st.SearchStrategy[Record]
) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(rows, min_size=1, max_size=6, unique_by=lambda row: key_of(table, row)), st.randoms())
    def check(records: list[Record], shuffler: random.Random) -> None:
        directory = tmp_path_factory.mktemp("shards")
        first = write_shard(directory, table, records)
        content = first.read_bytes()
        shuffler.shuffle(records)
        assert write_shard(directory, table, records) == first
        assert first.read_bytes() == content
        found = {key_of(table, row): row for row in read_rows(directory, table).to_pylist()}
        assert len(found) == len(records)
        for record in records:
            row = found[key_of(table, record)]
            assert {name: getattr(record, name) for name in row} == row

    check()


def test_every_table_has_the_columns_of_its_record() -> None:
    records = {"prompts": Prompt, "candidates": Candidate, "scores": Score, "pairs": Pair, "rejects": Reject}
    for table, record in records.items():
        assert [field.name for field in dataclasses.fields(record)] == TABLES[table].names


def test_timings_do_not_name_a_shard_but_results_do(tmp_path: Path) -> None:
    first = write_shard(tmp_path, "candidates", [candidate(seconds=1.0)])
    again = write_shard(tmp_path, "candidates", [candidate(seconds=9.0, created_at="2026-02-02")])
    other = write_shard(tmp_path, "candidates", [candidate(seed=8)])
    assert first == again != other


def test_rows_written_twice_are_read_once_and_ok_goes_before_failed(tmp_path: Path) -> None:
    write_shard(tmp_path, "candidates", [candidate("a", status="failed"), candidate("b")])
    write_shard(tmp_path, "candidates", [candidate("a"), candidate("b", seed=9)])
    write_shard(tmp_path, "candidates", [candidate("a", status="failed", reason="other")])
    rows = read_rows(tmp_path, "candidates", ["candidate_id", "status"]).to_pylist()
    assert sorted(rows, key=lambda row: row["candidate_id"]) == [
        {"candidate_id": "a", "status": "ok"},
        {"candidate_id": "b", "status": "ok"},
    ]


def test_no_rows_and_rows_of_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a shard of scores needs at least one row, got none"):
        write_shard(tmp_path, "scores", [])
    with pytest.raises(
        ValueError, match=r"differ in candidate_id, reward, reward_version, got 2 rows with 1"
    ):
        write_shard(tmp_path, "scores", [score("a"), score("a")])
    with pytest.raises(KeyError, match="unknown table 'score'"):
        write_shard(tmp_path, "score", [score("a")])
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    empty = read_rows(tmp_path / "none", "scores")
    assert (empty.num_rows, empty.schema.names) == (0, TABLES["scores"].names)


def test_keep_only_removes_the_other_shards(tmp_path: Path) -> None:
    old = write_shard(tmp_path, "rejects", [Reject(stage="pair", id="a", rule="static")])
    new = write_shard(tmp_path, "rejects", [Reject(stage="pair", id="b", rule="static")])
    assert keep_only(tmp_path, [new]) == [old]
    assert shard_files(tmp_path) == [new]


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(change(pq.read_table(path)), path)


def metadata(**values: str) -> Callable[[pa.Table], pa.Table]:
    given = {key.replace("_", ".", 1).encode(): value.encode() for key, value in values.items()}
    return lambda table: table.replace_schema_metadata((table.schema.metadata or {}) | given)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(4, len(data) // 3):
        data[place] ^= 0xFF
    path.write_bytes(bytes(data))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        "truncated or foreign.*delete it and run",
    ),
    "halved": (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "truncated or foreign",
    ),
    "empty": (lambda path: path.write_bytes(b""), "not a readable Parquet file"),
    "text": (lambda path: path.write_text("hello, this is no table at all"), "not a readable Parquet file"),
    "damaged page": (flipped, "not a readable Parquet file"),
    "foreign": (
        lambda path: pq.write_table(pa.table({"x": [1]}), path),
        "was not written by gpa .*move it out of the run",
    ),
    "newer": (
        rewritten(metadata(gpa_schema_version="99")),
        "schema version 99, this gpa reads version 1: use the gpa that wrote the run",
    ),
    "other table": (rewritten(metadata(gpa_table="scores")), "holds the table 'scores', not 'candidates'"),
    "less": (rewritten(lambda table: table.drop_columns(["fps"])), "has no column 'fps'"),
    "other type": (
        rewritten(lambda table: table.set_column(2, "seed", table["seed"].cast(pa.string()))),
        "column 'seed' of type string, expected int64",
    ),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_bad_file_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    path = write_shard(tmp_path, "candidates", [candidate(f"c{number}") for number in range(50)])
    apply, says = DAMAGES[damage]
    apply(path)
    with pytest.raises(UserError, match=f"{path}.*{says}") as caught:
        read_rows(tmp_path, "candidates")
    assert "\n" not in str(caught.value)
    # The remedy works: the file goes and the same rows are written under the same name.
    path.unlink()
    assert write_shard(tmp_path, "candidates", [candidate(f"c{number}") for number in range(50)]) == path
    assert read_rows(tmp_path, "candidates").num_rows == 50


def test_more_columns_than_the_contract_are_fine(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "rejects", [Reject(stage="pair", id="a", rule="static")])
    table = pq.read_table(path).append_column("extra", pa.array([1]))
    pq.write_table(table.cast(stamped(table.schema, "rejects")), path)
    assert read_rows(tmp_path, "rejects").schema.names == TABLES["rejects"].names


def test_a_plain_parquet_reader_sees_the_contract(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "scores", [score("a", w2c=[0.0] * 12, frame_indices=[3])])
    row = pq.read_table(path).to_pylist()[0]
    assert (row["candidate_id"], row["value"], row["frame_indices"], len(row["w2c"])) == ("a", -0.1, [3], 12)


@pytest.mark.parametrize("latents_first", [True, False])
def test_a_candidate_that_got_latents_later_has_them(tmp_path: Path, latents_first: bool) -> None:
    from storage.run import Run
    from storage.sql.views import fetch, session

    run = Run.create_or_open(tmp_path / "run")
    bare = [candidate(f"c{number}", latent_uri=None, model="imported", status="ok") for number in range(3)]
    whole = [candidate(f"c{number}") for number in range(2)]
    failed = [candidate("c2", status="failed", model="later")]
    for written in [whole, bare, failed] if latents_first else [bare, failed, whole]:
        write_shard(run.shard_dir("candidates"), "candidates", written)
    rows = run.rows("candidates", ["candidate_id", "model"]).to_pylist()
    assert {row["candidate_id"]: row["model"] for row in rows} == {
        "c0": "world",
        "c1": "world",
        "c2": "imported",
    }
    with session(run, "candidates") as connection:
        found = fetch(connection, "SELECT candidate_id, model FROM candidates")
    assert dict(found) == {row["candidate_id"]: row["model"] for row in rows}


def test_the_last_shard_may_hold_a_row_that_nobody_prefers(tmp_path: Path) -> None:
    rows = [
        candidate("a", "p", status="failed"),
        candidate("b", "p", seconds=1.0),
        candidate("b", "p", seconds=2.0),
    ]
    shards = [write_shard(tmp_path, "candidates", [row]) for row in rows[:2]]
    shards.append(write_shard(tmp_path / "another", "candidates", rows[2:]))
    table = pa.concat_tables(read_shard(shard, "candidates") for shard in shards)
    kept = one_per_key("candidates", table)
    assert kept["candidate_id"].to_pylist() == ["a", "b"]
    assert kept["seconds"].to_pylist() == [rows[0].seconds, 1.0]
