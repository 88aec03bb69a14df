"""A shard is named by its rows: not by how they lie in memory, and by nothing less than all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.tables.records import Reject
from storage.tables.schemas import TABLES
from storage.tables.shards import in_tables, read_rows, shard_files, shard_key, write_shards
from tests.storage.builders import score

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.float64()),
        ("flag", pa.bool_()),
        ("list", pa.list_(pa.float32())),
        ("blob", pa.struct([("data", pa.large_binary()), ("shape", pa.list_(pa.int64()))])),
    ]
)
small = st.floats(width=32, allow_nan=False)
rows = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        "number": st.none() | st.floats(allow_nan=False),
        "flag": st.none() | st.booleans(),
        "list": st.none() | st.lists(small, max_size=3),
        "blob": st.none()
        | st.fixed_dictionaries(
            {"data": st.binary(max_size=3), "shape": st.lists(st.integers(0, 9), max_size=2)}
        ),
    }
)


def table_of(values: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(values, schema=SCHEMA)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=6), st.data())
def test_the_name_does_not_depend_on_the_layout(values: list[dict[str, Any]], data: st.DataObject) -> None:
    table = table_of(values)
    name = shard_key("scores", table)
    cut = data.draw(st.integers(0, len(values)))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    padded = pa.concat_tables([table_of(values[:1]), table, table_of(values[:1])]).slice(1, len(values))
    combined = padded.combine_chunks()
    shuffled = table.select(data.draw(st.permutations(table.column_names)))
    nothing = table.filter(pa.array([False] * len(values)))
    for other in (chunked, padded, combined, shuffled, pa.concat_tables([nothing, table])):
        assert shard_key("scores", other) == name


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=4), st.lists(rows, max_size=4))
def test_other_rows_have_another_name(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    # By name: the order of a dictionary's keys says nothing of the rows.
    same_rows = repr([sorted(row.items()) for row in one]) == repr([sorted(row.items()) for row in other])
    assert (shard_key("scores", table_of(one)) == shard_key("scores", table_of(other))) == same_rows


def test_the_table_is_part_of_the_name_and_timings_are_not() -> None:
    rows = pa.table({"candidate_id": ["a"], "seconds": [1.0]})
    slower = pa.table({"candidate_id": ["a"], "seconds": [2.0]})
    assert shard_key("scores", rows) == shard_key("scores", slower)
    assert shard_key("scores", rows) != shard_key("candidates", rows)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 7))
def test_rows_stream_into_shards_of_one_size(sizes: list[int], per_shard: int) -> None:
    numbers = list(range(sum(sizes)))
    batches, start = [], 0
    for size in sizes:
        batches.append(pa.record_batch({"n": pa.array(numbers[start : start + size], pa.int64())}))
        start += size
    tables = list(in_tables(batches, per_shard))
    assert [number for table in tables for number in table["n"].to_pylist()] == numbers
    assert all(table.num_rows == per_shard for table in tables[:-1])
    assert all(0 < table.num_rows <= per_shard for table in tables)


def test_a_stream_is_written_whole_and_the_same_again(tmp_path: Path) -> None:
    records = [Reject(stage="pair", id=f"{number:03}", rule="static") for number in range(50)]
    table = pa.Table.from_pylist([vars(one) for one in records], schema=TABLES["rejects"])
    first = write_shards(tmp_path, "rejects", table.to_batches(max_chunksize=7), 8)
    assert len(first) == 7
    assert write_shards(tmp_path, "rejects", table.to_batches(max_chunksize=50), 8) == first
    assert sorted(first) == shard_files(tmp_path)
    assert read_rows(tmp_path, "rejects").sort_by("id").equals(table)
    assert write_shards(tmp_path / "none", "rejects", []) == []


def test_an_error_while_streaming_is_raised(tmp_path: Path) -> None:
    row = vars(score("a", reason=None))
    batch = pa.Table.from_pylist([row, row], schema=TABLES["scores"]).to_batches()
    with pytest.raises(ValueError, match="rows of scores must differ in candidate_id"):
        write_shards(tmp_path, "scores", batch)
