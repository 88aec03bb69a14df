"""Contact sheets: clips as rows of frames, with a label in front, as one PNG.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from storage.atomic import write_bytes
from storage.media.video import is_whole

# The text of the PNG that says what it was made of.
_CONTENT = "gpa-content"
_FRAMES = 5
_MINIMUM = 128
_GAP = 4
_LABEL_WIDTH = 150
_LINE = 14
_PAPER = (250, 250, 248)
_INK = (30, 30, 30)


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One clip of a sheet: what it is, and its frames (uint8 [T, H, W, 3])."""

    label: str
    frames_THW3: NDArray[np.uint8]


def shows(path: Path, content: str) -> bool:
    """Whether a sheet is there, whole, that was written of this `content`."""
    if not is_whole(path):
        return False
    with Image.open(path) as sheet:
        return sheet.info.get(_CONTENT) == content


def write_contact_sheet(path: Path, groups: Sequence[tuple[str, Sequence[Strip]]], content: str = "") -> None:
    """Writes titled groups of strips below each other; five frames from first to last of every clip.

    `content` names what the sheet is of, for `shows`. Raises ValueError for a sheet without clips and
    UserError when the disk refuses.
    """
    if not any(strips for _, strips in groups):
        raise ValueError("a contact sheet needs at least one clip, got none")
    parts = [_group(title, strips) for title, strips in groups if strips]
    width = max(part.width for part in parts)
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), _PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    said = PngInfo()
    said.add_text(_CONTENT, content)
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG", pnginfo=said)
    write_bytes(path, encoded.getvalue())


def _group(title: str, strips: Sequence[Strip]) -> Image.Image:
    rows = [_row(strip.frames_THW3) for strip in strips]
    head = _LINE + 3 * _GAP
    height = head + sum(row.height + _GAP for row in rows)
    picture = Image.new("RGB", (_LABEL_WIDTH + max(row.width for row in rows) + _GAP, height), _PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    pen.text((_GAP, 2 * _GAP), title, fill=_INK, font=font)
    top = head
    for strip, row in zip(strips, rows, strict=True):
        picture.paste(row, (_LABEL_WIDTH, top))
        for number, line in enumerate(strip.label.split("\n")):
            pen.text((_GAP, top + number * (_LINE + 2)), line, fill=_INK, font=font)
        top += row.height + _GAP
    return picture


def _row(frames_THW3: NDArray[np.uint8]) -> Image.Image:
    count, height, width = frames_THW3.shape[:3]
    scale = max(1, -(-_MINIMUM // height))
    chosen = np.linspace(0, count - 1, min(_FRAMES, count)).round().astype(int)
    row = Image.new("RGB", (len(chosen) * (width * scale + _GAP), height * scale), _PAPER)
    for column, index in enumerate(chosen):
        frame = Image.fromarray(frames_THW3[index]).resize(
            (width * scale, height * scale), Image.Resampling.NEAREST
        )
        row.paste(frame, (column * (width * scale + _GAP), 0))
    return row
