"""What every driver does with tasks: run them, watch them, write rejects aside, count."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pipeline.progress import Progress
from pipeline.runners import Runner
from pipeline.stages.base import Stage, Task, TaskOutcome
from storage.records import Reject
from storage.run import Run
from storage.shards import write_shard


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The count of a command: rows it wanted, found, made and failed to make; the last failure's reason."""

    wanted: int
    present: int
    done: int = 0
    failed: int = 0
    reason: str | None = None

    @property
    def pending(self) -> int:
        """Rows that are still missing."""
        return self.wanted - self.present - self.done - self.failed


def execute(
    run: Run, stage: Stage[Any], tasks: Sequence[Task], *, runner: Runner, progress: Progress, wanted: int
) -> Summary:
    """Do the tasks and count.

    Tasks without rows (errors, dead workers) go to rejects; the same command tries them again.
    """
    present = wanted - sum(len(task.ids) for task in tasks)
    done = failed = 0
    reason: str | None = None
    progress.start(stage.name, wanted, present)
    try:
        with closing(iter(runner.run(stage, tasks))) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes:
                _write_rejects(run, stage.name, outcome)
                done, failed = done + len(outcome.done), failed + len(outcome.failed)
                reason = outcome.failed[0].reason if outcome.failed else reason
                progress.advance(len(outcome.done), len(outcome.failed))
    finally:
        progress.stop()
    return Summary(wanted=wanted, present=present, done=done, failed=failed, reason=reason)


def _write_rejects(run: Run, stage: str, outcome: TaskOutcome) -> None:
    if outcome.was_raised:
        rows = [Reject(stage=stage, id=one.id, rule=one.rule, detail=one.reason) for one in outcome.failed]
        write_shard(run.shard_dir("rejects"), "rejects", rows)
