"""The folder of a report: files appear whole, and what an earlier report left and nobody wants goes."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from storage.atomic import TEMP_SUFFIX, write_error
from storage.errors import UserError

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
