"""Running the tasks of a stage, in this process or on Ray actors, with the same results.

An error inside a task comes back as an outcome and the others go on; a disk that is full ends the command.
How workers that die are replaced is in ray_pool.py.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.progress import Progress
from pipeline.stages.base import DISK, ERROR, Stage, Task, TaskOutcome, attempt
from pipeline.worker_settings import WorkerSettings
from storage.errors import UserError
from storage.records import Reject
from storage.run import Run
from storage.shards import write_shard

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
    from pipeline.ray_runner import RayRunner  # it builds on this module

    return RayRunner(settings=settings)


def settle_threads(gpus: float) -> None:
    """Make CPU results independent of how many cores or workers there are: one thread each.

    To be called when everything is imported: a stage without torch does not wait seconds for it here.
    """
    torch = sys.modules.get("torch")
    if torch is not None and gpus <= 0:
        torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class InProcessRunner:
    """Does the tasks here, one after the other."""

    def run(self, stage: Stage[Any], tasks: Iterable[Task]) -> Generator[TaskOutcome, None, None]:
        """Set the stage up once and do the tasks in order."""
        stage.setup()
        settle_threads(stage.resources.gpus)
        for task in tasks:
            yield attempt(stage, task)


def give_up_when_hopeless(outcomes: Iterable[TaskOutcome]) -> Iterator[TaskOutcome]:
    """Pass outcomes on.

    Raises UserError when the disk refuses, or when the first few are all errors: then every task would fail.
    """
    raised = 0
    for number, outcome in enumerate(outcomes, 1):
        first = outcome.failed[0] if outcome.failed else None
        if first is not None and first.rule == DISK:
            raise UserError(first.reason)
        yield outcome
        raised += first is not None and first.rule == ERROR
        if first is not None and raised == number == _HOPELESS:
            raise UserError(
                f"the first {number} tasks all failed, the last with: {first.reason}; mend this and run again"
            )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The count of a command: rows it wanted, found, made and failed to make; the last failure's reason."""

    wanted: int
    present: int
    done: int = 0
    failed: int = 0
    reason: str | None = None


def execute(
    run: Run, stage: Stage[Any], tasks: Sequence[Task], *, runner: Runner, progress: Progress, wanted: int
) -> Summary:
    """Do the tasks and count.

    Tasks without rows (errors, dead workers) go to rejects; the same command tries them again.
    """
    present = wanted - sum(len(task.ids) for task in tasks)
    if not tasks:
        return Summary(wanted=wanted, present=present)
    done = failed = 0
    reason: str | None = None
    progress.start(stage.name, wanted, present)
    try:
        with closing(runner.run(stage, tasks)) as outcomes:
            for outcome in give_up_when_hopeless(outcomes):
                _write_rejects(run, stage.name, outcome)
                done, failed = done + len(outcome.done), failed + len(outcome.failed)
                reason = outcome.failed[0].reason if outcome.failed else reason
                progress.advance(len(outcome.done), len(outcome.failed))
    finally:
        progress.stop()
    return Summary(wanted=wanted, present=present, done=done, failed=failed, reason=reason)


def _write_rejects(run: Run, stage: str, outcome: TaskOutcome) -> None:
    rows = [Reject(stage=stage, id=one.id, rule=one.rule, detail=one.reason) for one in outcome.rejected]
    if rows:
        write_shard(run.shard_dir("rejects"), "rejects", rows)
