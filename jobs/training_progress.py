"""What a training shows: a live line with its loss on stderr, and at the end its curve as blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_LINE_SECONDS: Final = 10.0


class TrainingProgress:
    """A bar with the newest values on a terminal, a line every ten seconds elsewhere. A context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._what, self._last_line = "", 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            values = TextColumn("{task.fields[values]}")
            self._bar = Progress(*columns, values, TimeRemainingColumn(), console=self._console)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, what: str, done: int, total: int, values: dict[str, float]) -> None:
        """So much of this work is done, with these values; other work than before gets a bar of its own."""
        text = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if name != "seconds")
        changed, self._what = what != self._what, what
        if self._bar is not None:
            if changed or self._task is None:
                self._task = self._bar.add_task(what, total=total, completed=done, values=text)
            self._bar.update(self._task, completed=done, values=text)
            return
        now = time.monotonic()
        if changed or now - self._last_line >= _LINE_SECONDS or done == total:
            self._last_line = now
            ending = f", {text}" if text else ""
            self._console.print(f"{what}: {done} of {total}{ending}", highlight=False)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as blocks of eight heights, averaged into at most `width` of them; ValueError without values."""
    if not values:
        raise ValueError("values must hold at least one number, got none")
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)
