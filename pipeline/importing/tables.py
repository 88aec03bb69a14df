"""Rows of a table that somebody else wrote: JSONL, CSV or Parquet, whatever made of it what it is.

What a spreadsheet or pandas leaves behind is understood where it can mean one thing: other delimiters, an
index column, byte order marks, NaN and its spellings where nothing is.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import UserError
from storage.media.external_files import Refused, show
from storage.texts import json_lines, require_utf8, short

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
_BATCH = 256
_DELIMITERS = (",", ";", "\t", "|")
# What pandas calls the index that it writes as a column, and what a spreadsheet calls an empty one.
_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__|")
# CSV has text alone, so there a number with a point is what a column with gaps made of a whole one.
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,99}))\.0+")
_NOTHING = frozenset({"nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "N/A", "#N/A"})
# What a row holds, or why it cannot be understood.
Row = tuple[int, "dict[str, Any] | Refused"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a table must have and may have; other columns are refused, unless `others`."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    others: bool = False

    def known(self) -> str:
        """The names, for an error."""
        return (
            f"required are {', '.join(self.required)}, optional {', '.join(self.optional)}: "
            "put anything else into metadata, a JSON object"
        )

    def kept(self, path: Path, found: Iterable[str]) -> list[str]:
        """The names of the columns without those of an index. Raises UserError for one too few or many."""
        names = [name for name in found if not _INDEX.fullmatch(name)]
        missing = [name for name in self.required if name not in names]
        shown = show(str(path))
        if missing:
            listed = ", ".join(show(name)[:40] for name in names[:10]) or "none"
            raise UserError(f"{shown} has no column {missing[0]!r}, its columns are {listed}; {self.known()}")
        unknown = [name for name in names if name not in (*self.required, *self.optional)]
        if unknown and not self.others:
            raise UserError(f"{shown} has the unknown column {show(unknown[0])[:40]!r}; {self.known()}")
        if len(set(names)) != len(names):
            raise UserError(f"{shown} has a column twice: keep one of each name")
        return names


def table_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Every row with its number, by which a person finds it: the line of a text, the row of a Parquet file.

    Cells that hold nothing, in whatever spelling, are left out. Raises UserError for a table that cannot be
    read as a whole: another format, missing columns.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{show(str(path))} is no manifest that is known: give a folder, or one of {', '.join(FORMATS)}"
        )
    try:
        for number, values in reader(path, columns):
            yield number, values if isinstance(values, Refused) else _filled(values, columns)
    except OSError as error:
        raise UserError(
            f"{show(str(path))} cannot be read ({error.strerror or error}): check the path"
        ) from error


def _filled(values: dict[str, Any], columns: Columns) -> dict[str, Any] | Refused:
    """The cells that hold something. A required one that says in words that it holds nothing is refused."""
    for name in columns.required:
        if values.get(name) in _NOTHING if isinstance(values.get(name), str) else _is_nan(values.get(name)):
            return Refused(
                "missing-field",
                f"{name} is {short(values[name])}, which tables write where nothing is: fill the cell",
            )
    return {
        name: value
        for name, value in values.items()
        if value is not None and not _is_nan(value) and not (isinstance(value, str) and value in _NOTHING)
    }


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _jsonl(path: Path, columns: Columns) -> Iterator[Row]:
    for number, values in json_lines(path):
        known = (*columns.required, *columns.optional)
        unknown = [] if isinstance(values, Refused) else sorted(set(values) - set(known))
        if unknown and not columns.others:
            message = f"has the unknown field {show(unknown[0])[:40]!r}; {columns.known()}"
            yield number, Refused("unknown-field", message)
        else:
            yield number, values


def _csv(path: Path, columns: Columns) -> Iterator[Row]:
    require_utf8(path)
    # Bytes that are no UTF-8 pass as surrogates, so that they cost their own row only.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        # What Excel reads, and some write, to say the delimiter.
        said = re.fullmatch(r"sep=(.)\s*", first)
        delimiter = said[1] if said else max(_DELIMITERS, key=first.count)
        if not said:
            file.seek(0)
        lines = _Lines(file, delimiter)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        skipped = 1 if said else 0
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise UserError(
                f"{show(str(path))} is no CSV file ({error}): write one with a header line"
            ) from error
        kept = set(columns.kept(path, header))
        while True:
            number = reader.line_num + 1 + skipped
            lines.within = False
            try:
                cells = [cell.strip() for cell in next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                # The reader goes on behind the lines that it took for this row.
                last = reader.line_num + skipped
                lost = f"; lines {number} to {last} were not read" if last > number else ""
                yield number, Refused("malformed", f"is malformed CSV ({error}){lost}: correct its quotes")
                continue
            # A spreadsheet ends with rows of delimiters.
            if any(cells):
                yield number, _named(header, cells, kept, delimiter)


class _Lines:
    """Lines for csv.reader without the white space around quoted cells, which it takes for text or a fault.

    `within` says whether the next line begins in a quoted cell. The reader asks for another line of a row in
    that case alone, so a line sets it and whoever asks for a row clears it.
    """

    def __init__(self, lines: Iterable[str], delimiter: str) -> None:
        self.within = False
        self._lines = iter(lines)
        end, space = re.escape(delimiter), rf"[^\S\r\n{re.escape(delimiter)}]*"
        # A cell that stays open is one too, so that what is within it is not taken for others.
        self._quoted = re.compile(rf'(^|{end}){space}("(?:[^"]|"")*+(?:"|\Z)){space}(?={end}|[\r\n]|\Z)')

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        opened = '"' if self.within else ""
        self.within = True
        return self._quoted.sub(r"\1\2", opened + line)[len(opened) :]


def _named(
    header: Sequence[str], cells: Sequence[str], kept: set[str], delimiter: str
) -> dict[str, Any] | Refused:
    if len(cells) != len(header):
        return Refused(
            "malformed",
            f"has {len(cells)} cells, the header has {len(header)}: quote cells that hold {delimiter!r}",
        )
    for name, cell in zip(header, cells, strict=True):
        if "\0" in cell:
            return Refused("malformed", f"holds a NUL byte in {name}: write the file again as UTF-8 text")
    pairs = zip(header, cells, strict=True)
    values = {name: cell for name, cell in pairs if name in kept and cell}
    if whole := _WHOLE.fullmatch(values.get("scene_id", "")):
        values["scene_id"] = str(int(whole[1]))
    return values


def _parquet(path: Path, columns: Columns) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            names = columns.kept(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                for index in range(batch.num_rows):
                    number += 1
                    yield number, _row(batch, index)
    except pa.ArrowException as error:
        raise UserError(
            f"{show(str(path))} is not a readable Parquet file ({error}): write it again"
        ) from error


def _row(batch: pa.RecordBatch, index: int) -> dict[str, Any] | Refused:
    try:
        values = {name: batch.column(name)[index].as_py() for name in batch.schema.names}
        # Text that its writer did not mark as such.
        values = {
            name: value.decode("utf-8") if isinstance(value, bytes) else value
            for name, value in values.items()
        }
    except (UnicodeDecodeError, pa.ArrowException) as error:
        return Refused("not-utf-8", f"holds text that is not UTF-8 ({error}): write it as UTF-8")
    # A map comes as pairs.
    with suppress(TypeError, ValueError):
        if isinstance(values.get("metadata"), list):
            values["metadata"] = dict(values["metadata"])
    return values
