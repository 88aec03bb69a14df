"""What a subject reports: a titled table whose counts are stated."""

from __future__ import annotations

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
