"""Whatever write a run was stopped at, however often, in whatever batches: the same rows, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.bench.faults import simulated
from jobs.bench.faults.simulated import (
    SimulatedSettings,
    SimulatedStage,
    make_journal,
    run_simulated,
    simulated_id,
)
from storage.run import Run
from storage.tables.schemas import VOLATILE
from storage.tables.shards import read_shard, shard_files


class Stopped(BaseException):
    """The process ends here."""


class Ending:
    """Counts down over the writes of a run; at zero the process ends before or after the write."""

    def __init__(self, writes_left: int, after: bool) -> None:
        self.writes_left, self.after = writes_left, after

    def around(self, write: Any) -> Any:
        def counted(*given: Any) -> Any:
            self.writes_left -= 1
            if self.writes_left < 0 and not self.after:
                raise Stopped
            result = write(*given)
            if self.writes_left < 0:
                raise Stopped
            return result

        return counted


def rows(run: Run) -> list[dict[str, Any]]:
    """The rows as they lie in the shards, doubles included."""
    tables = [read_shard(path, "candidates") for path in shard_files(run.shard_dir("candidates"))]
    found = [row for table in tables for row in table.to_pylist()]
    plain = [
        {name: value for name, value in row.items() if name not in VOLATILE["candidates"]} for row in found
    ]
    return sorted(plain, key=lambda row: str(row["candidate_id"]))


def start(run: Run, journal: Path, batch: int, candidates: int, ending: Ending | None = None) -> list[str]:
    """One start of the command; the candidates that it made or began to make."""
    made: list[str] = []
    make = SimulatedStage._make

    def noted(stage: SimulatedStage, name: str, number: int) -> Any:
        made.append(name)
        return make(stage, name, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedStage, "_make", noted)
        if ending is not None:
            patch.setattr(simulated, "write_bytes", ending.around(simulated.write_bytes))
            patch.setattr(simulated, "write_shard", ending.around(simulated.write_shard))
        wanted = SimulatedSettings(candidates=candidates, batch=batch, seconds=0, kilobytes=1)
        try:
            run_simulated(run, journal, wanted)
        except Stopped:
            assert ending is not None
    return made


STARTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 25), st.booleans()), max_size=4)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 10), STARTS, st.integers(1, 4))
def test_a_run_stopped_anywhere_is_finished_by_the_same_command(
    tmp_path_factory: pytest.TempPathFactory,
    candidates: int,
    starts: list[tuple[int, int, bool]],
    last_batch: int,
) -> None:
    folder = tmp_path_factory.mktemp("stopped")
    journal = folder / "journal"
    make_journal(journal)
    run = Run.create_or_open(folder / "run")
    for batch, writes, after in starts:
        durable = {row["candidate_id"] for row in rows(run)}
        assert not durable & set(start(run, journal, batch, candidates, Ending(writes, after)))
    durable = {row["candidate_id"] for row in rows(run)}
    assert not durable & set(start(run, journal, last_batch, candidates))
    assert {row["candidate_id"] for row in rows(run)} == {simulated_id(one) for one in range(candidates)}
    assert start(run, journal, last_batch, candidates) == []

    never = Run.create_or_open(folder / "never stopped")
    start(never, journal, 1, candidates)
    assert rows(run) == rows(never)
    assert not list(run.path.rglob("*.tmp"))
