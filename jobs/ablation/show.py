"""The tables of an ablation on the terminal: a few measures side by side, a recipe a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.ablation.costs import describe
from jobs.ablation.course import Course
from jobs.ablation.files import notes
from jobs.ablation.plan import foretell
from jobs.ablation.settings import Outcome
from jobs.ablation.tables import Figures, cell
from pipeline.evaluation.comparison import Row
from pipeline.evaluation.judge import Measure

_WIDTH = 150
# What a column has beside its words.
_GAP = 3
_ARROWS = {1: " (up)", -1: " (down)", 0: ""}


def show(outcome: Outcome, found: Figures, files: Sequence[Path]) -> None:
    """Print the recipes against the base, the first against the others, and what a reader must know."""
    console = Console(width=_WIDTH, highlight=False)
    rows = [row for by_measure in found.recipes.values() for row in by_measure.values()]
    trainings = max((row.spread.trainings for row in rows if row.spread), default=1)
    prompts = max((row.prompts for row in rows), default=0)
    console.print(f"recipes against the base: {prompts} held-out prompts, up to {trainings} trainings each")
    references = {
        who: {name: [_number(value)] for name, value in means.items()}
        for who, means in found.references.items()
    }
    against_base = {name: _cells(by_measure, cell) for name, by_measure in found.recipes.items()}
    _print(console, "", references | against_base, found.measures)
    if found.against:
        console.print(f"{found.first} against the others")
        judged = [one for one in found.measures if one.better]
        others = {
            name: _cells(by_measure, lambda row: cell(row)[1:]) for name, by_measure in found.against.items()
        }
        _print(console, found.first, others, judged)
    for one in found.measures:
        console.print(f"{one.name:17s} {one.about}", soft_wrap=True)
    for line in notes(outcome):
        console.print(line, soft_wrap=True)
    console.print(f"results: {', '.join(str(file) for file in files)}", soft_wrap=True)


def show_plan(course: Course, sampling: str) -> None:
    """Print what every training would take and what would be left out."""
    console = Console(width=_WIDTH, highlight=False)
    console.print(f"sample: {sampling}", soft_wrap=True)
    for training, cost, fits in foretell(course):
        done = "" if cost.seconds or cost.unknown else "trained already"
        said = done or describe(cost, float("inf"))
        console.print(f"{training.name:26s} {said}{'' if fits else '; would be left out'}", soft_wrap=True)


def _cells(rows: Mapping[str, Row], words: Callable[[Row], list[str]]) -> dict[str, list[str]]:
    return {measure: words(row) for measure, row in rows.items()}


def _print(
    console: Console,
    corner: str,
    lines: Mapping[str, Mapping[str, list[str]]],
    measures: Sequence[Measure],
) -> None:
    """A table of as many measures as fit beside each other, and the rest in tables below."""
    names = max(len(name) for name in (corner, *lines))
    widths = {
        one.name: max(
            len(_head(one)), *(len(word) for cells in lines.values() for word in cells.get(one.name, [""]))
        )
        for one in measures
    }
    for block in _blocks(measures, widths, console.width - names - 2 * _GAP):
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(corner, no_wrap=True)
        for one in block:
            table.add_column(_head(one), justify="right", no_wrap=True)
        for name, cells in lines.items():
            table.add_row(name, *("\n".join(cells.get(one.name, [])) for one in block), end_section=True)
        console.print(table)


def _blocks(measures: Sequence[Measure], widths: Mapping[str, int], room: int) -> list[list[Measure]]:
    blocks: list[list[Measure]] = []
    left = 0
    for one in measures:
        needed = widths[one.name] + _GAP
        if not blocks or needed > left:
            blocks.append([])
            left = room
        blocks[-1].append(one)
        left -= needed
    return blocks


def _head(measure: Measure) -> str:
    return f"{measure.name}{_ARROWS[measure.better]}"


def _number(value: float) -> str:
    return f"{value:.4g}"
