"""Tables of figures on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.world.figures.table import FigureTable


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
