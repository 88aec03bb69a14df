"""Signs of progress inside a worker, so that a long task can be told from one that hangs.

Stages beat after every piece of work, samplers after every denoising step. Whoever watches asks for the time
since the last beat.
"""

from __future__ import annotations

import time

_last = time.monotonic()


def beat() -> None:
    """Say that the work of this process moved on."""
    global _last
    _last = time.monotonic()


def idle_seconds() -> float:
    """Seconds since the last beat of this process."""
    return time.monotonic() - _last
