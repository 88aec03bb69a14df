from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.run import Run
from storage.tables.schemas import VERSION_KEY
from storage.tables.shards import shard_files, write_shard
from storage.upkeep.repair import drop_rows, set_aside_unreadable
from tests.storage.builders import candidate


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


def write(run: Run, *names: str) -> Path:
    return write_shard(run.shard_dir("candidates"), "candidates", [candidate(name) for name in names])


def raw_ids(run: Run) -> list[str]:
    files = shard_files(run.shard_dir("candidates"))
    return sorted(name for path in files for name in pq.read_table(path)["candidate_id"].to_pylist())


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_a_damaged_shard_is_put_aside_and_kept(run: Run, damage: str) -> None:
    write(run, "a")
    path = write(run, "b", "c")
    data = path.read_bytes()
    flipped = bytes([data[40] ^ 0xFF])
    damaged = {"truncated": data[:60], "empty": b"", "flipped": data[:40] + flipped + data[41:]}[damage]
    path.write_bytes(damaged)
    assert set_aside_unreadable(run, "candidates") == [run.path / "damaged" / "candidates" / path.name]
    assert (run.path / "damaged" / "candidates" / path.name).read_bytes() == damaged
    assert raw_ids(run) == ["a"]
    assert set_aside_unreadable(run, "candidates", "scores") == []


def test_a_shard_of_another_version_is_no_damage(run: Run) -> None:
    path = write(run, "a")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, VERSION_KEY: b"99"}), path)
    with pytest.raises(UserError, match="has schema version 99"):
        set_aside_unreadable(run, "candidates")
    assert path.exists()


@given(
    shards=st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=4),
    dropped=st.sets(st.sampled_from("abcdefg")),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_dropped_rows_are_gone_and_all_others_stay(
    tmp_path_factory: pytest.TempPathFactory, shards: list[set[str]], dropped: set[str]
) -> None:
    run = Run.create_or_open(tmp_path_factory.mktemp("runs") / "run")
    seen: set[str] = set()
    for names in shards:
        if names - seen:
            write(run, *sorted(names - seen))
            seen |= names
    drop_rows(run, "candidates", dropped)
    assert raw_ids(run) == sorted(seen - dropped)
