"""What a stage is: it declares what it needs, loads its weights in the worker, and does one task at a time.

Stages give a heartbeat after every piece of work, samplers after every denoising step. Whoever watches asks
for the time since the last one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from storage.errors import DiskError, UserError

_last = time.monotonic()


def heartbeat() -> None:
    """Say that the work of this process moved on."""
    global _last
    _last = time.monotonic()


def idle_seconds() -> float:
    """Seconds since the last heartbeat of this process."""
    return time.monotonic() - _last


class Progress(Protocol):
    """Told the size of the work and every step of it."""

    def start(self, what: str, total: int, done: int) -> None:
        """`total` items in all, of which `done` were there before."""

    def advance(self, done: int, failed: int) -> None:
        """So many more items are finished, well or badly."""

    def stop(self) -> None:
        """No more will come, whether all is done or not."""


class Silent:
    """Nobody watches."""

    def start(self, what: str, total: int, done: int) -> None:
        """Ignore it."""

    def advance(self, done: int, failed: int) -> None:
        """Ignore it."""

    def stop(self) -> None:
        """Ignore it."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a stage occupies."""

    cpus: float = 1
    gpus: float = 0


class Task(Protocol):
    """A unit of work: lost or finished as a whole. `ids` are the rows it is to produce."""

    @property
    def key(self) -> str:
        """A name that is stable over runs."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the rows it produces."""


@runtime_checkable
class _Divisible(Protocol):
    """A task that can be done in parts: one candidate that kills its worker then costs no other."""

    def split(self) -> Sequence[Task]:
        """A task for each of its ids."""


def split_task(task: Task) -> Sequence[Task]:
    """The task in its smallest parts: itself, unless it is divisible."""
    return task.split() if isinstance(task, _Divisible) else (task,)


TaskT_contra = TypeVar("TaskT_contra", bound=Task, contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An id that has no good result and why; `rule` is `failed` (its row says so) or what goes to rejects.

    `disk` concerns no candidate: it ends the command.
    """

    id: str
    rule: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """What became of a task: every id is in `done` or in `failed`. `seconds` is the worker's own time."""

    key: str
    done: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    seconds: float = 0.0

    @property
    def rejected(self) -> tuple[Failure, ...]:
        """The failures that have no row: errors, dead workers, unreadable files."""
        return tuple(failure for failure in self.failed if failure.rule != ROW_FAILED)

    @property
    def is_error(self) -> bool:
        """Whether the task raised: nothing is known of what it was to make."""
        return bool(self.failed) and self.failed[0].rule == ERROR


ROW_FAILED = "failed"
ERROR = "error"
DISK = "disk"
UNREADABLE = "unreadable"
WORKER_LOST = "worker-lost"


class Stage(Protocol[TaskT_contra]):
    """Work that a runner spreads over workers. Its constructor is cheap: a stage travels to its worker."""

    name: str
    resources: Resources

    def setup(self) -> None:
        """Load the weights, in the worker. Raises UserError when that cannot work in any worker."""

    def process(self, task: TaskT_contra) -> TaskOutcome:
        """Do the task and write its media, then its rows as one shard."""


def attempt(stage: Stage[TaskT_contra], task: TaskT_contra) -> TaskOutcome:
    """Do a task. An error in it becomes an outcome with its reason: one bad task does not end the rest."""
    started = time.perf_counter()
    try:
        return stage.process(task)
    except DiskError as error:
        return failed_outcome(task, DISK, str(error), time.perf_counter() - started)
    except Exception as error:
        # The one boundary: whatever a model raises is logged and reported; nothing is hidden.
        log.exception("%s: task %s failed", stage.name, task.key)
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return failed_outcome(task, ERROR, reason, time.perf_counter() - started)


def attempt_here(stage: Stage[TaskT_contra], task: TaskT_contra) -> TaskOutcome:
    """Do a task in a process that nobody replaces. Raises UserError when its GPU no longer works."""
    outcome = attempt(stage, task)
    fault = device_fault() if outcome.is_error else None
    if fault is not None:
        raise UserError(
            f"the GPU of this process no longer works ({fault}): the same command, in a new process, goes on"
        )
    return outcome


def device_fault() -> str | None:
    """Why the GPU of this process no longer works; None when it does, or none was used.

    After some errors (an illegal access, an assertion on the device, memory that fails) every later call of
    the process fails, whatever it is asked for.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.ones(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def failed_outcome(task: Task, rule: str, reason: str, seconds: float = 0.0) -> TaskOutcome:
    """The outcome of a task that produced no rows."""
    failed = tuple(Failure(id=one, rule=rule, reason=" ".join(reason.split())) for one in task.ids)
    return TaskOutcome(key=task.key, failed=failed, seconds=seconds)


def settle_threads(gpus: float) -> None:
    """Make CPU results independent of how many cores or workers there are: one thread each.

    To be called when everything is imported: a stage without torch does not wait seconds for it here.
    """
    torch = sys.modules.get("torch")
    if torch is not None and gpus <= 0:
        torch.set_num_threads(1)
