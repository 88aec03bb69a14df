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

if TYPE_CHECKING:
    from pipeline.engine.ray_crew import Crew
    from pipeline.engine.worker_settings import WorkerSettings


@dataclass
class _Kept:
    """How many blocks are open, and the crew that the stages in them share."""

    blocks: int = 0
    crew: Crew | None = None
    starting: _Start | None = None

    def take(self) -> Crew | None:
        """The crew, if need be when it has started. Raises what kept it from starting."""
        starting, self.starting = self.starting, None
        crew, self.crew = starting.crew() if starting else self.crew, None
        return crew

    def close(self) -> None:
        starting, self.starting = self.starting, None
        crew, self.crew = self.crew, None
        if starting is not None:
            starting.abandon()
        if crew is not None:
            crew.close()


class _Start:
    """A crew that starts in a thread of its own.

    The thread stays until the crew is closed: the kernel ends Ray's processes with the thread that made them.
    """

    def __init__(self, settings: WorkerSettings, places: int, modules: Sequence[str]) -> None:
        from pipeline.engine.ray_session import open_crew

        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpa-head-start")
        self._future = self._thread.submit(open_crew, settings, places, modules)

    def crew(self) -> Crew:
        """Wait for it. Raises UserError when Ray does not start."""
        try:
            crew = self._future.result()
        except BaseException:
            self.abandon()
            raise
        crew.at_close(lambda: self._thread.shutdown(wait=False))
        return crew

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
    without workers, and where a crew is there.
    """
    idle = _kept.crew is None and _kept.starting is None
    if _kept.blocks and idle and settings.workers and settings.ray_address is None:
        _kept.starting = _Start(settings, places, modules)


def let_go() -> None:
    """Give back what others may want while long work without Ray begins: GPUs, and places on a cluster."""
    if _kept.crew is not None:
        _kept.crew.let_go()


@contextmanager
def crew_for(settings: WorkerSettings, places: int) -> Iterator[Crew]:
    """A crew with so many places: that of the former stage where it fits, else a new one.

    After an error it is not kept: what ended a stage may have damaged it. Raises UserError when Ray does not
    start.
    """
    from pipeline.engine.ray_session import open_crew

    crew = _kept.take()
    if crew is not None and not crew.fits(settings, places):
        crew.close()
        crew = None
    crew = crew or open_crew(settings, places)
    whole = False
    try:
        yield crew
        whole = True
    finally:
        if whole and _kept.blocks:
            _kept.crew = crew
        else:
            crew.close()
