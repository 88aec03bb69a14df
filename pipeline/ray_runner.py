"""Ray Core actors as the workers of a stage.

A worker that dies is replaced and its task done again; a task that keeps killing its worker is given up
with its reason.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.runners import settle_threads
from pipeline.stages.base import WORKER_LOST, Stage, Task, TaskOutcome, attempt, give_up
from storage.errors import UserError

log = logging.getLogger(__name__)

MAX_DEATHS = 3
_START_ATTEMPTS = 2
_OBJECT_STORE_BYTES = 100 * 2**20
_POLL_SECONDS = 0.5


class _Worker:
    """One actor: a stage with its weights."""

    def __init__(self, stage: Stage[Any]) -> None:
        self._stage = stage

    def setup(self) -> None:
        self._stage.setup()
        settle_threads(self._stage.resources.gpus)

    def process(self, task: Task) -> TaskOutcome:
        return attempt(self._stage, task)


@dataclass(frozen=True, kw_only=True)
class RayRunner:
    """Ray Core actors, one stage each, one task in flight each: the bound on what a crash can lose.

    Without an address Ray is started here, on the loopback interface only, and stopped at the end.
    """

    workers: int
    address: str | None = None

    def run(self, stage: Stage[Any], tasks: Iterable[Task]) -> Generator[TaskOutcome, None, None]:
        """Start the actors and do the tasks. Raises what `setup` raises, or UserError without Ray."""
        queue = deque(tasks)
        count = min(self.workers, len(queue))
        if not count:
            return
        with _ray(self.address, stage.resources.cpus * count, stage.resources.gpus * count) as ray:
            pool = _Pool(ray, stage, queue, count)
            try:
                yield from pool.outcomes()
            finally:
                pool.stop()


class _Pool:
    """The actors of one run and what each of them is doing."""

    def __init__(self, ray: Any, stage: Stage[Any], queue: deque[Task], count: int) -> None:
        self._ray, self._stage, self._queue = ray, stage, queue
        self._deaths: dict[str, int] = {}
        self._setup_deaths = 0
        # What an actor is busy with, by the reference of its result; None while it is being set up.
        self._busy: dict[Any, tuple[Any, Task | None]] = {}
        for _ in range(count):
            self._start_actor()

    def outcomes(self) -> Iterator[TaskOutcome]:
        """Outcomes until the queue is empty and no actor is busy with a task."""
        while self._queue or any(task is not None for _, task in self._busy.values()):
            # A short wait, so that a signal is seen soon.
            ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_POLL_SECONDS)
            for reference in ready:
                outcome = self._collect(reference)
                if outcome is not None:
                    yield outcome

    def stop(self) -> None:
        """End every actor at once; what they were doing is done again by the next run."""
        for actor, _ in self._busy.values():
            self._ray.kill(actor)
        self._busy.clear()

    def _start_actor(self) -> None:
        options = {
            "num_cpus": self._stage.resources.cpus,
            "num_gpus": self._stage.resources.gpus,
            "max_restarts": 0,
        }
        actor = self._ray.remote(_Worker).options(**options).remote(self._stage)
        self._busy[actor.setup.remote()] = (actor, None)

    def _collect(self, reference: Any) -> TaskOutcome | None:
        actor, task = self._busy.pop(reference)
        try:
            outcome: TaskOutcome | None = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            outcome = self._bury(task, error)
            if self._queue:
                self._start_actor()
            return outcome
        except self._ray.exceptions.RayTaskError as error:
            # Only setup can raise: attempt() turns what a task raises into an outcome.
            raise _cause(error) from error
        if task is None:
            self._setup_deaths = 0
        self._give_next(actor)
        return outcome

    def _give_next(self, actor: Any) -> None:
        if self._queue:
            task = self._queue.popleft()
            self._busy[actor.process.remote(task)] = (actor, task)
        else:
            self._ray.kill(actor)

    def _bury(self, task: Task | None, error: Exception) -> TaskOutcome | None:
        """Put the task of a dead actor back, unless it has killed too many."""
        if task is None:
            self._setup_deaths += 1
            if self._setup_deaths >= MAX_DEATHS:
                raise UserError(
                    f"workers of {self._stage.name} died {MAX_DEATHS} times while loading their weights "
                    "(out of memory, most often): use fewer --workers"
                ) from error
            return None
        deaths = self._deaths[task.key] = self._deaths.get(task.key, 0) + 1
        log.warning("%s: a worker died on task %s (%d of %d)", self._stage.name, task.key, deaths, MAX_DEATHS)
        if deaths < MAX_DEATHS:
            self._queue.appendleft(task)
            return None
        return give_up(task, WORKER_LOST, f"killed its worker {deaths} times")


def _cause(error: Any) -> Exception:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else UserError(str(error))


@contextmanager
def _ray(address: str | None, cpus: float, gpus: float) -> Iterator[Any]:
    """A Ray session: the cluster at `address`, or a quiet local one on the loopback interface."""
    with _environment(_local_environment() if address is None else {}), _own_signals():
        import ray

        _start(ray, _start_options(address, cpus, gpus))
    try:
        yield ray
    finally:
        ray.shutdown()


def _start_options(address: str | None, cpus: float, gpus: float) -> dict[str, Any]:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "gpa"}
    if address is not None:
        return quiet | {"address": address, "runtime_env": {"env_vars": {"PYTHONPATH": _python_path()}}}
    # Without "local", Ray would join whatever cluster runs on this machine.
    return quiet | {
        "address": "local",
        "num_cpus": max(1, math.ceil(cpus)),
        "num_gpus": math.ceil(gpus),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }


def _start(ray: Any, options: dict[str, Any]) -> None:
    """Start Ray; once more when that fails, because it gives up early on a machine that is busy."""
    for attempts_left in reversed(range(_START_ATTEMPTS)):
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises the bare class when it takes too long
            ray.shutdown()
            log.warning("Ray did not start: %s", error)
            if not attempts_left:
                here = options["address"] == "local"
                where = "on this machine" if here else f"at {options['address']}"
                raise UserError(
                    f"Ray does not start {where} ({error}): try --workers 0, which needs no Ray"
                ) from error
        else:
            return


def _local_environment() -> dict[str, str]:
    """What the processes of a local Ray inherit."""
    return {
        # Despite its name this is what makes Ray listen on the loopback interface only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": _python_path(),
    }


def _python_path() -> str:
    """Workers import from where this process does, installed or not."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Undo that Ray takes over SIGTERM: how a command ends is the command's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
