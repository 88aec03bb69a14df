"""The study as one picture: rewards by rows, faults by columns, AUC as colour and number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jobs.figure_tables import Cell, FigureTable
from storage.media.pictures import write_image

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
_CELL: Final = (86, 26)
_LABEL: Final = 250
_HEAD: Final = 44
_GAP: Final = 24
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (150, 150, 146)
# From always wrong over chance to always right: readable without telling red from green.
_STOPS: Final = ((0.0, (178, 80, 40)), (0.5, (244, 240, 228)), (1.0, (40, 110, 160)))


def colour(value: float) -> tuple[int, int, int]:
    """The colour of a share in [0, 1]."""
    (low, first), (high, second) = (_STOPS[0], _STOPS[1]) if value < 0.5 else (_STOPS[1], _STOPS[2])
    part = (min(max(value, 0.0), 1.0) - low) / (high - low)
    red, green, blue = (round(a + part * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def write_chart(path: Path, tables: Sequence[FigureTable], columns: Sequence[Sequence[str]]) -> None:
    """Writes tables as heat maps below each other, of each only the named columns.

    Raises ValueError for no table and UserError when the disk refuses.
    """
    if not tables:
        raise ValueError("a chart needs at least one table, got none")
    parts = [_heat_map(table, shown) for table, shown in zip(tables, columns, strict=True)]
    sheet = Image.new("RGB", (max(p.width for p in parts), sum(p.height + _GAP for p in parts)), _PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + _GAP
    write_image(path, np.asarray(sheet))


def _heat_map(table: FigureTable, shown: Sequence[str]) -> Image.Image:
    width, height = _CELL
    font = ImageFont.load_default(12)
    counted = ", ".join(f"{count} {what}" for what, count in table.counts.items())
    title = f"{table.title} ({counted})"
    wide = max(_LABEL + len(shown) * width, round(font.getlength(title)) + 8) + _GAP
    picture = Image.new("RGB", (wide, _HEAD + len(table.rows) * height + _GAP), _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((8, 6), title, fill=_INK, font=font)
    for column, name in enumerate(shown):
        pen.text((_LABEL + column * width + 6, 26), name, fill=_INK, font=font)
    for row, cells in enumerate(table.rows):
        top = _HEAD + row * height
        pen.text((8, top + 6), str(cells[0]), fill=_INK, font=font)
        for column, name in enumerate(shown):
            _cell(pen, font, cells[table.columns.index(name)], _LABEL + column * width, top)
    return picture


def _cell(pen: ImageDraw.ImageDraw, font: _Font, value: Cell, left: int, top: int) -> None:
    box = (left, top, left + _CELL[0] - 2, top + _CELL[1] - 2)
    if not isinstance(value, int | float):
        pen.rectangle(box, outline=_FAINT)
        pen.text((left + 8, top + 6), "no value", fill=_FAINT, font=font)
        return
    fill = colour(float(value))
    pen.rectangle(box, fill=fill)
    pen.text((left + 30, top + 6), f"{value:.2f}", fill=_INK if sum(fill) > 380 else _PAPER, font=font)
