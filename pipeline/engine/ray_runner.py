"""Ray Core actors as the workers of a stage, and a SIGTERM that waits for what is in flight."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pipeline.engine.ray_pool import Pool
from pipeline.engine.stage import Stage, Task, TaskOutcome
from pipeline.engine.warm import warm_actors_for
from pipeline.engine.worker_settings import WorkerSettings
from pipeline.telling import tell


class Termination:
    """Whether SIGTERM came. The first is kept until `deliver`, a second one goes through at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def deliver(self) -> None:
        """End as the signal would have. Raises KeyboardInterrupt unless the handler does something else."""
        self._pass_on(signal.SIGTERM, None)
        raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._pass_on(number, frame)
        self.requested = True

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._before):
            self._before(number, frame)
        elif self._before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def deferred_sigterm() -> Iterator[Termination]:
    """Keep SIGTERM back inside the block. In another than the main thread signals stay as they are."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    termination._before = signal.signal(signal.SIGTERM, termination._handle)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, termination._before)


log = logging.getLogger(__name__)

# A short wait, so that a signal is seen soon.
_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class RayRunner:
    """Does the tasks of a stage on actors of an existing cluster, or of a Ray on this machine."""

    settings: WorkerSettings

    def run(self, stage: Stage[Any], tasks: Iterable[Task]) -> Generator[TaskOutcome, None, None]:
        """Start the actors and do the tasks.

        After SIGTERM nothing new begins; what finishes within the grace period is yielded, then the signal
        ends the command. Raises what `setup` raises, or UserError without Ray.
        """
        waiting = list(tasks)
        if not waiting:
            return
        places = min(self.settings.workers, len(waiting))
        with warm_actors_for(self.settings, places) as warm_actors, deferred_sigterm() as termination:
            tell("loading weights in the workers")
            pool = Pool(warm_actors, stage, self.settings)
            pool.feed(waiting)
            pool.close()
            waiting.clear()
            try:
                for _, outcome in drive([pool], termination, self.settings.grace):
                    yield outcome
            finally:
                pool.stop()


def drive(
    pools: list[Pool], termination: Termination, grace: float
) -> Generator[tuple[Pool, TaskOutcome], None, None]:
    """Yield the outcomes of pools until all are finished, or SIGTERM and its grace period have ended."""
    deadline: float | None = None
    while not all(pool.finished for pool in pools):
        if termination.requested and deadline is None:
            deadline = time.monotonic() + grace
            for pool in pools:
                pool.abandon_queue()
            flying = sum(pool.in_flight for pool in pools)
            log.warning("SIGTERM: %d tasks in flight have %g s to finish", flying, grace)
        if deadline is not None and time.monotonic() >= deadline:
            break
        for pool in pools:
            for outcome in pool.poll(_POLL_SECONDS / len(pools)):
                yield pool, outcome
    if termination.requested:
        termination.deliver()
