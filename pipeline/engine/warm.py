"""What outlives a stage: the stages of a command share its Ray, and workers that have their libraries.

Without it every stage pays for the start again: Ray, and torch and diffusers in each worker. Nothing here
imports Ray, since every command enters the block, also those that need no Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.telling import tell

if TYPE_CHECKING:
    from pipeline.engine.warm_actors import WarmActors
    from pipeline.engine.worker_settings import WorkerSettings


@dataclass
class _Kept:
    """How many blocks are open, and the warm actors that the stages in them share."""

    blocks: int = 0
    warm_actors: WarmActors | None = None
    starting: _Start | None = None

    def take(self) -> WarmActors | None:
        """The warm actors, if need be when they have started. Raises what kept it from starting."""
        starting, self.starting = self.starting, None
        warm_actors, self.warm_actors = starting.warm_actors() if starting else self.warm_actors, None
        return warm_actors

    def close(self) -> None:
        starting, self.starting = self.starting, None
        warm_actors, self.warm_actors = self.warm_actors, None
        if starting is not None:
            starting.abandon()
        if warm_actors is not None:
            warm_actors.close()


class _Start:
    """Warm actors, and the Ray below them, that start in a thread of its own.

    The thread stays until they are closed: the kernel ends Ray's processes with the thread that made them.
    """

    def __init__(self, settings: WorkerSettings, places: int, modules: Sequence[str]) -> None:
        from pipeline.engine.ray_session import open_warm_actors

        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpa-head-start")
        self._future = self._thread.submit(open_warm_actors, settings, places, modules)

    def warm_actors(self) -> WarmActors:
        """Wait for it. Raises UserError when Ray does not start."""
        try:
            warm_actors = self._future.result()
        except BaseException:
            self.abandon()
            raise
        warm_actors.at_close(lambda: self._thread.shutdown(wait=False))
        return warm_actors

    def abandon(self) -> None:
        """End what nobody came for, when it has started: half of a Ray cannot be ended."""
        if self._future.exception() is None:
            self._future.result().close()
        self._thread.shutdown(wait=False)


_kept = _Kept()


@contextmanager
def kept_warm() -> Iterator[None]:
    """Inside the block the next stage takes over what the former one leaves; the outermost block ends it."""
    _kept.blocks += 1
    try:
        yield
    finally:
        _kept.blocks -= 1
        if not _kept.blocks:
            _kept.close()


def head_start(settings: WorkerSettings, places: int, modules: Sequence[str]) -> None:
    """Start Ray on this machine while the driver does other work; its workers will have imported `modules`.

    `places` are those that the stages will ask for at most. Does nothing outside of a block, on a cluster,
    without workers, and where warm actors are there.
    """
    idle = _kept.warm_actors is None and _kept.starting is None
    if _kept.blocks and idle and settings.workers and settings.ray_address is None:
        tell("starting Ray")
        _kept.starting = _Start(settings, places, modules)


def release_idle() -> None:
    """Give back what others may want while long work without Ray begins: GPUs, and places on a cluster."""
    if _kept.warm_actors is not None:
        _kept.warm_actors.release_idle()


@contextmanager
def warm_actors_for(settings: WorkerSettings, places: int) -> Iterator[WarmActors]:
    """Warm actors with so many places: those of the former stage where they fit, else new ones.

    After an error it is not kept: what ended a stage may have damaged it. Raises UserError when Ray does not
    start.
    """
    from pipeline.engine.ray_session import open_warm_actors

    if _kept.warm_actors is None and _kept.starting is None:
        tell("starting Ray" if settings.ray_address is None else "connecting to Ray")
    warm_actors = _kept.take()
    if warm_actors is not None and not warm_actors.fits(settings, places):
        warm_actors.close()
        warm_actors = None
    warm_actors = warm_actors or open_warm_actors(settings, places)
    whole = False
    try:
        yield warm_actors
        whole = True
    finally:
        if whole and _kept.blocks:
            _kept.warm_actors = warm_actors
        else:
            warm_actors.close()
