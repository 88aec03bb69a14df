"""Readers of shards and the one who removes merged ones keep out of each other's way."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.locks import SWITCH

_POLL_SECONDS = 0.05


class ReadLock:
    """While this is held, `gpa compact` removes no shard of a directory.

    The lock is on the directory itself: nothing is written, so a read-only copy can be read, and it dies with
    the process. Where a file system has no locks, reading goes on without.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Without a directory there are no shards to be removed.
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go; once is enough."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __reduce__(self) -> tuple[type[ReadLock], tuple[Path]]:
        return ReadLock, (self._directory,)

    def __del__(self) -> None:
        self.release()


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Hold a ReadLock for a while."""
    lock = ReadLock(directory)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def no_readers(directory: Path, wait_seconds: float) -> Iterator[bool]:
    """True once nobody reads the directory, and nobody starts to while this is held.

    False when somebody still does after `wait_seconds`. Raises OSError where the file system has no locks.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _taken(descriptor, time.monotonic() + wait_seconds)
    finally:
        os.close(descriptor)


def _taken(descriptor: int, deadline: float) -> bool:
    if os.environ.get(SWITCH) == "off":
        return True
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
