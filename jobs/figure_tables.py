"""Tables of figures: titled, with their counts stated, and printed to stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Cell: TypeAlias = str | float | int | None


@dataclass(frozen=True, kw_only=True)
class FigureTable:
    """Figures of one subject; `counts` says of how many clips, prompts or samples. None is "not measured".

    A table of `detail` is for files: it is too long to print.
    """

    subject: str
    title: str
    counts: dict[str, int]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    detail: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"FigureTable.rows: a row must have {len(self.columns)} cells, got {len(row)}"
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, a dictionary a row."""
        return {
            "subject": self.subject,
            "title": self.title,
            "counts": self.counts,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
        }


def print_tables(tables: Sequence[FigureTable]) -> None:
    """Print each table under its title and counts; None shows as a dash."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=140)
    for figures in tables:
        counted = ", ".join(f"{count} {what}" for what, count in figures.counts.items())
        console.print(f"[bold]{figures.title}[/bold] ({counted})")
        shown = Table()
        for name, first in zip(figures.columns, figures.rows[0], strict=True):
            shown.add_column(name, justify="left" if isinstance(first, str) else "right", no_wrap=True)
        for row in figures.rows:
            shown.add_row(*(_text(cell) for cell in row))
        console.print(shown)
        console.print()


def _text(cell: str | float | int | None) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) >= 10 else f"{cell:.4g}" if abs(cell) < 0.01 else f"{cell:.3f}"
    return str(cell)
