"""How a driver tells somebody how far it is, without knowing who watches."""

from __future__ import annotations

from typing import Protocol


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
