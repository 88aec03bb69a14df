"""Ending on request: SIGINT and SIGTERM are noted, and acted on between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """The name of the signal that asked to stop, once there was one."""

    name: str | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first signal instead of dying of it; a second one has its usual effect.

    Handlers can only be set in the main thread; elsewhere nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name
        _restore(previous)

    for number in _SIGNALS:
        previous[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        _restore(previous)


def _restore(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
