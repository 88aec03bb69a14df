"""What a command does before anything moves: import libraries, start Ray, load weights. Each takes seconds.

Library code tells; whoever runs it may listen, as the command line does on a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


def tell(what: str) -> None:
    """Say what begins now and takes over a second."""
    for listener in _listeners:
        listener(what)


def tell_import(*packages: str) -> None:
    """Say that these are imported now, unless they have been."""
    if any(package not in sys.modules for package in packages):
        tell(f"importing {', '.join(packages)}")


@contextmanager
def told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, what is told goes to this listener; what is told again at once, only once."""
    last = ""

    def once(what: str) -> None:
        nonlocal last
        if what != last:
            last = what
            listener(what)

    _listeners.append(once)
    try:
        yield
    finally:
        _listeners.remove(once)
