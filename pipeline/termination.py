"""SIGTERM that waits: what is in flight may finish before the command ends as it would have at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
