"""Running the tasks of a stage, in this process or on Ray actors, with the same results.

An error inside a task comes back as an outcome and the others go on; a disk that is full ends the command.
How workers that die are replaced is in ray_pool.py.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipeline.engine.stage import DISK, Progress, Stage, Task, TaskOutcome, attempt_here, settle_threads
from pipeline.engine.worker_settings import WorkerSettings
from pipeline.telling import tell
from storage.errors import UserError
from storage.run import Run
from storage.tables.records import Reject
from storage.tables.shards import write_shard

# When nothing but errors comes back, the cause is not in the tasks.
_HOPELESS = 5


class Runner(Protocol):
    """Spreads tasks over workers and yields their outcomes as they come, in any order."""

    def run(self, stage: Stage[Any], tasks: Iterable[Task]) -> Generator[TaskOutcome, None, None]:
        """Set the stage up in every worker and do the tasks. Raises what `setup` raises."""


def make_runner(settings: WorkerSettings) -> Runner:
    """In-process for 0 workers, else Ray actors."""
    if not settings.workers:
        return InProcessRunner()
    from pipeline.engine.ray_runner import RayRunner  # it builds on this module

    return RayRunner(settings=settings)


@dataclass(frozen=True, kw_only=True)
class InProcessRunner:
    """Does the tasks here, one after the other."""

    def run(self, stage: Stage[Any], tasks: Iterable[Task]) -> Generator[TaskOutcome, None, None]:
        """Set the stage up once and do the tasks in order."""
        tell("loading weights")
        stage.setup()
        settle_threads(stage.resources.gpus)
        for task in tasks:
            yield attempt_here(stage, task)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The count of a command: rows it wanted, found, made and failed to make; the last failure's reason."""

    wanted: int
    present: int
    done: int = 0
    failed: int = 0
    reason: str | None = None


class OutcomeCounter:
    """Counts the outcomes of one stage and writes what has no rows to rejects."""

    def __init__(self, run: Run, stage: str, *, wanted: int, present: int) -> None:
        self._run, self._stage = run, stage
        self._summary = Summary(wanted=wanted, present=present)
        self._outcomes = self._errors = 0

    @property
    def summary(self) -> Summary:
        """What was counted so far."""
        return self._summary

    def add(self, outcome: TaskOutcome) -> None:
        """Count one.

        Raises UserError when the disk refuses, or when the first few are all errors: then every task would
        fail.
        """
        first = outcome.failed[0] if outcome.failed else None
        if first is not None and first.rule == DISK:
            raise UserError(first.reason)
        _write_rejects(self._run, self._stage, outcome)
        counted = self._summary
        self._summary = replace(
            counted,
            done=counted.done + len(outcome.done),
            failed=counted.failed + len(outcome.failed),
            reason=counted.reason if first is None else first.reason,
        )
        self._outcomes += 1
        self._errors += outcome.is_error
        if first is not None and self._errors == self._outcomes == _HOPELESS:
            raise UserError(
                f"the first {_HOPELESS} tasks all failed, the last with: {first.reason}; mend this and run "
                "again"
            )


def execute(
    run: Run, stage: Stage[Any], tasks: Sequence[Task], *, runner: Runner, progress: Progress, wanted: int
) -> Summary:
    """Do the tasks and count.

    Tasks without rows (errors, dead workers) go to rejects; the same command tries them again.
    """
    present = wanted - sum(len(task.ids) for task in tasks)
    counter = OutcomeCounter(run, stage.name, wanted=wanted, present=present)
    if not tasks:
        return counter.summary
    progress.start(stage.name, wanted, present)
    try:
        with closing(runner.run(stage, tasks)) as outcomes:
            for outcome in outcomes:
                counter.add(outcome)
                progress.advance(len(outcome.done), len(outcome.failed))
    finally:
        progress.stop()
    return counter.summary


def _write_rejects(run: Run, stage: str, outcome: TaskOutcome) -> None:
    rows = [Reject(stage=stage, id=one.id, rule=one.rule, detail=one.reason) for one in outcome.rejected]
    if rows:
        write_shard(run.shard_dir("rejects"), "rejects", rows)
