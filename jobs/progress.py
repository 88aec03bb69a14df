"""Progress on stderr: a live bar or curve on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LINE_SECONDS = 10.0
_VALUES_SECONDS = 30.0


class ConsoleProgress:
    """Shows items done, their rate and the time left, counted from what this command itself does."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what, self._total, self._done, self._made, self._failed = "", 0, 0, 0, 0
        self._last_line = 0.0
        # The rate is counted from the first result on: before it, workers load their weights.
        self._first: float | None = None
        self._first_made = 0

    def start(self, what: str, total: int, done: int) -> None:
        """Show that `done` of `total` were there before."""
        self._what, self._total, self._done, self._made, self._failed = what, total, done, 0, 0
        self._last_line, self._first, self._first_made = time.monotonic(), None, 0
        if self._console.is_terminal and done < total:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")
        elif done < total:
            self._console.print(
                f"{what}: {done} of {total} {self._unit} are there, {total - done} to do", highlight=False
            )

    def advance(self, done: int, failed: int) -> None:
        """Count items; on a terminal move the bar, elsewhere print a line every ten seconds."""
        self._done, self._made, self._failed = (
            self._done + done + failed,
            self._made + done + failed,
            self._failed + failed,
        )
        if self._first is None:
            self._first, self._first_made = time.monotonic(), self._made
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate())
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            self._console.print(
                f"{self._what}: {self._done} of {self._total}, {self._rate()}, {self._left()} left",
                highlight=False,
            )

    def stop(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _per_second(self) -> float | None:
        if self._first is None or self._made <= self._first_made:
            return None
        return (self._made - self._first_made) / max(1e-9, time.monotonic() - self._first)

    def _rate(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        rate = self._per_second()
        return (f"{rate:.2f} {self._unit}/s" if rate else f"- {self._unit}/s") + failed

    def _left(self) -> str:
        rate = self._per_second()
        if not rate:
            return "unknown time"
        return _minutes((self._total - self._done) / rate)


_BLOCKS: Final = "▁▂▃▄▅▆▇█"


class _BarWithValues(Progress):
    """A bar, and below it values that a narrow terminal would not show beside it."""

    values = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.values, no_wrap=True, overflow="ellipsis")


class TrainingProgress:
    """A bar with the newest values and the pace on a terminal, elsewhere a line of them now and then.

    The first and the last are shown, between them one every thirty seconds. A context manager.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._what, self._last_line = "", 0.0
        # The pace is counted from the first on: before it, weights load and kernels compile.
        self._began, self._first = 0.0, 0
        self._bar: _BarWithValues | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, what: str, done: int, total: int, values: dict[str, float]) -> None:
        """So much of this work is done, with these values; other work than before gets a bar of its own."""
        now = time.monotonic()
        changed, self._what = what != self._what, what
        if changed:
            self._began, self._first = now, done
        shown = [f"{name} {value:.4g}" for name, value in values.items() if name != "seconds"]
        pace = self._pace(now, done)
        text = ", ".join([*shown, *pace])
        if self._console.is_terminal:
            if self._bar is None:
                # Not before there is something to show: another bar may come first.
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
                remaining = (TextColumn("left"), TimeRemainingColumn())
                self._bar = _BarWithValues(*columns, *remaining, console=self._console)
                self._bar.start()
            if changed or self._task is None:
                self._task = self._bar.add_task(what, total=total, completed=done)
            self._bar.values = text
            self._bar.update(self._task, completed=done)
            return
        if changed or now - self._last_line >= _VALUES_SECONDS or done == total:
            self._last_line = now
            left = (
                [f"{_minutes((total - done) * self._each(now, done))} left"] if pace and done < total else []
            )
            ending = ", ".join(["", text, *left] if text else left)
            self._console.print(f"{what}: {done} of {total}{ending}", highlight=False, soft_wrap=True)

    def _each(self, now: float, done: int) -> float:
        return (now - self._began) / max(1, done - self._first)

    def _pace(self, now: float, done: int) -> list[str]:
        """The pace in words; none before there is one."""
        each = self._each(now, done)
        if done <= self._first or not each:
            return []
        return [f"{each:.2f} s/step" if each >= 1 else f"{1 / each:.2f} steps/s"]


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


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
