"""What outlives a stage: the stages of a command share its Ray, and workers that have their libraries.

Without it every stage pays for the start again: Ray, and torch and diffusers in each worker. Nothing here
imports Ray, since every command enters the block, also those that need no Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
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

    def close(self) -> None:
        crew, self.crew = self.crew, None
        if crew is not None:
            crew.close()


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

    if _kept.crew is not None and not _kept.crew.fits(settings, places):
        _kept.close()
    crew, _kept.crew = _kept.crew or open_crew(settings, places), None
    whole = False
    try:
        yield crew
        whole = True
    finally:
        if whole and _kept.blocks:
            _kept.crew = crew
        else:
            crew.close()
