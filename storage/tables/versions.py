"""What a run was made with, and where a column of today lies in a shard of an earlier schema version."""

from __future__ import annotations

import platform
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import UserError

DISTRIBUTION = "geometric-preference-alignment"
_ROOT = Path(__file__).resolve().parents[2]
_RECORDED = ("torch", "diffusers", "transformers", "peft", "accelerate", "ray", "duckdb", "pyarrow", "av")


def versions() -> dict[str, str | None]:
    """Installed versions by name, None for what is not installed."""
    found: dict[str, str | None] = {"gpa": gpa_version(), "python": platform.python_version()}
    return found | {name: _version(name) for name in _RECORDED}


@cache
def gpa_version() -> str | None:
    """The version of this gpa: as installed, else as its checkout says; None when neither is known."""
    installed = _version(DISTRIBUTION)
    if installed is not None:
        return installed
    try:
        project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return None
    return str(project["version"]) if project.get("name") == DISTRIBUTION else None


@cache
def git_revision() -> str | None:
    """The commit of the checkout this code runs from, -dirty when it was changed; None outside of one."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        revision = _git(_ROOT, "rev-parse", "HEAD")
        changed = _git(_ROOT, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{revision}-dirty" if changed else revision


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class ColumnRule:
    """How `column` of the next version comes from `was` (None: there was none).

    `fill` stands where nothing did. The values are cast to the type that the column has today.
    """

    column: str
    was: str | None = None
    fill: Value | None = None


# RULES[v] brings version v to v + 1, by table. A new SCHEMA_VERSION comes with its entry here, empty for the
# tables that did not change; versions without an entry on the way are refused. No release wrote a version
# before 1.
RULES: dict[int, dict[str, tuple[ColumnRule, ...]]] = {}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a column of today lies in an older shard; `changed` when a rule speaks of it."""

    column: str | None
    fill: Value | None = None
    changed: bool = False


def _oldest_readable(current: int) -> int:
    """The first version from which rules lead to `current` without a gap."""
    oldest = current
    while oldest - 1 in RULES:
        oldest -= 1
    return oldest


def require_readable(path: Path, version: object, current: int, writer: str | None = None) -> int:
    """The schema version of a file, when this gpa reads it. Raises UserError naming the gpa that does.

    `writer` is the gpa version that wrote the file, as the file says.
    """
    number = int(str(version)) if str(version).isdecimal() else None
    oldest = _oldest_readable(current)
    if number is not None and oldest <= number <= current:
        return number
    known = f"version {current}" if oldest == current else f"versions {oldest} to {current}"
    wrote = f"the gpa that wrote the run{f' ({writer})' if writer else ''}"
    remedy = f"use {wrote}, or start a new run directory"
    if number is not None and number > current:
        least = f">={writer}" if writer else ""
        remedy = f"use {wrote} or a newer one: pip install -U '{DISTRIBUTION}{least}'"
    raise UserError(f"{path} has schema version {version}, this gpa reads {known}: {remedy}")


def sources(table: str, version: int, current: int, columns: Iterable[str]) -> dict[str, Source]:
    """Where each of today's `columns` lies in a shard of `table` of `version`."""
    found = {name: Source(column=name) for name in columns}
    for step in range(current - 1, version - 1, -1):
        rules = {rule.column: rule for rule in RULES[step].get(table, ())}
        for name, source in found.items():
            rule = rules.get(source.column or "")
            if rule is not None:
                # The older step comes first in time: what it fills, a later one finds filled.
                fill = rule.fill if rule.fill is not None else source.fill
                found[name] = replace(source, column=rule.was, fill=fill, changed=True)
    return found


class OlderShard(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file of an older version that reads as one of today; `schema` is today's, of its table."""

    def __init__(self, path: Path, schema: pa.Schema, places: dict[str, Source], **options: Any) -> None:
        super().__init__(path, **options)
        self._today, self._places = schema, places

    @property
    def schema_arrow(self) -> pa.Schema:
        """Today's columns that the file holds or a rule fills, of today's types where a rule changed them."""
        return self._renewed(super().schema_arrow.empty_table(), self._names(None)).schema

    def read(self, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """Today's columns of every row."""
        names = self._names(columns)
        return self._renewed(super().read(columns=self._stored(names), **options), names)

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """Today's columns of a row group."""
        return self.read_row_groups([i], columns, **options)

    def read_row_groups(
        self, row_groups: Sequence[int], columns: Sequence[str] | None = None, **options: Any
    ) -> pa.Table:
        """Today's columns of some row groups."""
        names = self._names(columns)
        stored = super().read_row_groups(row_groups, columns=self._stored(names), **options)
        return self._renewed(stored, names)

    def iter_batches(
        self, batch_size: int = 65536, *, columns: Sequence[str] | None = None, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        """Today's columns, so many rows at a time."""
        names = self._names(columns)
        for batch in super().iter_batches(batch_size, columns=self._stored(names), **options):
            yield from self._renewed(pa.Table.from_batches([batch]), names).to_batches()

    def _names(self, columns: Sequence[str] | None) -> list[str]:
        """The columns asked for that can be given; all of them by default."""
        held = set(super().schema_arrow.names)
        wanted = self._today.names if columns is None else columns
        return [name for name in wanted if self._has(name, held)]

    def _has(self, name: str, held: set[str]) -> bool:
        source = self._places.get(name.partition(".")[0])
        return source is not None and (source.column in held or source.fill is not None)

    def _stored(self, names: Sequence[str]) -> list[str]:
        """The names under which the file holds them; a field of a struct is asked for as column.field."""
        held = set(super().schema_arrow.names)
        stored = []
        for name in names:
            column, dot, field = name.partition(".")
            place = self._places[column].column
            if place in held:
                stored.append(f"{place}{dot}{field}")
        return stored

    def _renewed(self, stored: pa.Table, names: Sequence[str]) -> pa.Table:
        columns = {name.partition(".")[0]: "." not in name for name in names}
        arrays = [self._column(stored, name, whole) for name, whole in columns.items()]
        return pa.table(arrays, names=list(columns))

    def _column(self, stored: pa.Table, name: str, whole: bool) -> Any:
        source, kind = self._places[name], self._today.field(name).type
        if source.column not in stored.column_names:
            return pa.array([source.fill] * stored.num_rows, kind)
        column = stored[source.column]
        if not source.changed or not whole:
            return column
        column = column.cast(kind)
        return column if source.fill is None else pc.fill_null(column, pa.scalar(source.fill, kind))
