"""The folder of a report: files appear whole, and what an earlier report left and nobody wants goes."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.atomic import TEMP_SUFFIX, write_error
from storage.errors import UserError
from storage.tables.ids import content_id

PAGE = "index.html"
_PARTS = ("assets", "data", "clips", "stills", "reconstructions", "evaluation")
_SOURCES = Path(__file__).parent / "page"


class ReportFolder:
    """Writes a report's files and remembers them; `finish` removes what is not of this report.

    Files are renamed into place but not synced: whatever a crash loses, the same command writes again.
    Raises UserError for a directory that holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._wanted: set[Path] = set()
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: give --out a directory")
        if path.is_dir() and any(path.iterdir()) and not self._is_report():
            raise UserError(f"{path} holds other files and no report: give --out a new or empty directory")

    def holds(self, name: str) -> bool:
        """Whether a file of an earlier report can stay; it then belongs to this one."""
        path = self.path / name
        if not path.is_file() or not path.stat().st_size:
            return False
        self._wanted.add(path)
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write a file unless it is there with these bytes."""
        path = self.path / name
        self._wanted.add(path)
        try:
            if path.is_file() and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            raise write_error(path, error) from error

    def put_data(self, name: str, value: Any) -> None:
        """Write a value as the script data/NAME.js, which hands it to the page.

        A page opened as a file may run other files, but not read them. Only ASCII, and no number that JSON
        does not have.
        """
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        self.put(f"data/{name}.js", f'"use strict";gpa.put({json.dumps(name)},{text});\n'.encode("ascii"))

    def put_page(self) -> None:
        """Write the page itself: its HTML, style and scripts."""
        for source in sorted(_SOURCES.iterdir()):
            if source.suffix in (".html", ".css", ".js"):
                self.put(source.name if source.name == PAGE else f"assets/{source.name}", source.read_bytes())

    def finish(self) -> None:
        """Remove files of earlier reports that this one does not have."""
        for part in _PARTS:
            for path in (self.path / part).rglob("*"):
                if path.is_file() and path not in self._wanted:
                    path.unlink(missing_ok=True)

    def size(self) -> tuple[int, int]:
        """Bytes of all files of this report, and of its videos."""
        sizes = {path: path.stat().st_size for path in self._wanted if path.is_file()}
        videos = sum(size for path, size in sizes.items() if path.suffix == ".mp4")
        return sum(sizes.values()), videos

    def _is_report(self) -> bool:
        entries = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(TEMP_SUFFIX)}
        return entries <= {*_PARTS, PAGE}


_SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}")


def number(value: Any, digits: int = 6) -> float | int | None:
    """A number with so many significant digits; None for what is none, or not finite."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def numbers(values: Iterable[Any] | None, digits: int = 6) -> list[float | int | None]:
    """Numbers as `number` gives them; none for None."""
    return [number(value, digits) for value in values or ()]


def plain(value: Any) -> Any:
    """Any value of a file that others wrote, as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    return number(value) if isinstance(value, (int, float)) else str(value)


def file_key(name: str) -> str:
    """An id as the stem of a file's name: itself, or a hash of one that a file should not have."""
    return name if _SAFE.fullmatch(name) else content_id(name)
