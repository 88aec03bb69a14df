"""DuckDB views over the shards of a run, one row per key: nothing is copied, nothing else is in reach."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from storage.errors import UserError
from storage.reading import reading
from storage.run import Run
from storage.schemas import ADDED, KEYS, PAIR_TENSORS, TABLES, open_shard
from storage.shards import read_rows, shard_files

_OPENERS = 8
# The shards themselves are views of this schema; those that a query sees are in the default one.
_SCHEMA = "shards"

_HASHES = "SELECT hash({keys}) AS key_hash FROM {schema}.{table}"
_REPEATED = "CREATE TABLE {schema}.{table}_repeated AS SELECT key_hash FROM hashes"
_ALL = "CREATE VIEW {table} AS SELECT * EXCLUDE (filename, file_row_number) FROM {schema}.{table}"
# Of the rows that racing processes wrote under one key, the one a reader sees (as in shards.read_rows).
_ONE_PER_KEY = """
    CREATE VIEW {table} AS
    SELECT * EXCLUDE (filename, file_row_number)
    FROM {schema}.{table} ANTI JOIN {schema}.{table}_repeated ON key_hash = hash({keys})
    UNION ALL
    SELECT * EXCLUDE (filename, file_row_number) FROM (
        SELECT * FROM {schema}.{table} SEMI JOIN {schema}.{table}_repeated ON key_hash = hash({keys})
        QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {preference} filename, file_row_number) = 1)
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a connection may take: memory ("4GB"; more goes to disk) and threads (None: all)."""

    memory: str = "4GB"
    threads: int | None = None

    def apply(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Set them. Raises UserError for a memory that DuckDB cannot read and for fewer than one thread."""
        try:
            connection.execute("SET memory_limit = $memory", {"memory": self.memory})
        except duckdb.Error as error:
            raise UserError(
                f"memory must be a size such as 4GB or 500MB, got {self.memory!r}: correct it"
            ) from error
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads must be at least 1, got {self.threads}: leave it out to use all")
        if self.threads is not None:
            connection.execute("SET threads = $threads", {"threads": self.threads})


def connect(
    run: Run,
    tables: Sequence[str] = tuple(TABLES),
    limits: Limits | None = None,
    *,
    repeats: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A connection with a view per table, one row per key; it reaches no file but the shards of the tables.

    With `repeats` the views have every row that was written, and making them does not look at the keys.
    Raises UserError naming a shard that is truncated, foreign or of another schema version.
    """
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            # Without an ORDER BY, rows come in any order, which costs less memory and time.
            "preserve_insertion_order": "false",
            # Of its own: processes that spill into one folder would overwrite each other's files.
            "temp_directory": str(Path(tempfile.gettempdir()) / f"gpa-duckdb-{secrets.token_hex(8)}"),
        }
    )
    (limits or Limits()).apply(connection)
    connection.execute(f"CREATE SCHEMA {_SCHEMA}")
    allowed = [str(path) for table in tables for path in _create_view(connection, run, table, repeats)]
    connection.execute("SET allowed_paths = $files", {"files": allowed})
    connection.execute("SET enable_external_access = false")
    return connection


@contextmanager
def session(
    run: Run, *tables: str, limits: Limits | None = None, repeats: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for a few statements; an error of DuckDB becomes one that names the damaged shard."""
    with ExitStack() as held:
        for table in tables:
            held.enter_context(reading(run.shard_dir(table)))
        connection = connect(run, tables, limits, repeats=repeats)
        held.callback(connection.close)
        try:
            yield connection
        except duckdb.Error:
            # Footers were sound when the views were made, so a page may be damaged: reading names the file.
            for table in tables:
                read_rows(run.shard_dir(table), table)
            raise


def fetch(
    connection: duckdb.DuckDBPyConnection, statement: str, values: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """All rows of a statement, its values bound by name."""
    return list(connection.execute(statement, values or {}).fetchall())


def _create_view(connection: duckdb.DuckDBPyConnection, run: Run, table: str, repeats: bool) -> list[Path]:
    """Make the view of a table; the shards it reads."""
    files = [path.absolute() for path in shard_files(run.shard_dir(table))]
    # Only names from schemas.py are put into the text of a statement, never a value.
    names = {"table": table, "schema": _SCHEMA, "keys": ", ".join(KEYS[table])}
    names["preference"] = "status = 'ok' DESC," if table == "candidates" else ""
    _create_shard_view(connection, table, files)
    repeated = pa.nulls(0, pa.uint64()) if repeats else _repeated(connection, names)
    if not len(repeated):
        connection.execute(_ALL.format(**names))
        return files
    connection.register("hashes", pa.table({"key_hash": repeated}))
    connection.execute(_REPEATED.format(**names))
    connection.unregister("hashes")
    connection.execute(_ONE_PER_KEY.format(**names))
    return files


def _repeated(connection: duckdb.DuckDBPyConnection, names: dict[str, str]) -> pa.Array:
    """The hashes that the keys of two rows have: only these rows can be one row written twice.

    Takes 8 bytes a row, and a third of the time of grouping in DuckDB.
    """
    hashes = connection.execute(_HASHES.format(**names)).fetchnumpy()["key_hash"]
    hashes.sort()
    return pa.array(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))


def _create_shard_view(connection: duckdb.DuckDBPyConnection, table: str, files: list[Path]) -> None:
    if not files:
        connection.register("no_rows", TABLES[table].empty_table())
        connection.execute(
            f"CREATE TABLE {_SCHEMA}.{table} AS SELECT *, '' AS filename, 0 AS file_row_number FROM no_rows"
        )
        connection.unregister("no_rows")
        return
    with ThreadPoolExecutor(_OPENERS) as pool:
        found = set().union(*pool.map(lambda path: _columns(path, table), files))
    # An index of pairs lacks the tensor columns, and old scores the columns that came later.
    rows = connection.read_parquet(
        [str(path) for path in files],
        filename=True,
        file_row_number=True,
        union_by_name=table == "pairs" or table in ADDED,
    )
    missing = [name for name in ADDED.get(table, ()) if name not in found and name not in PAIR_TENSORS]
    empty = [f"NULL::{_sql_type(table, name)} AS {name}" for name in missing]
    connection.execute(f"SET schema = '{_SCHEMA}'")
    rows.select(", ".join(["*", *empty])).create_view(table)
    connection.execute("SET schema = 'main'")


def _columns(path: Path, table: str) -> set[str]:
    with open_shard(path, table) as shard:
        return set(shard.schema_arrow.names)


def _sql_type(table: str, column: str) -> str:
    return "DOUBLE" if pa.types.is_floating(TABLES[table].field(column).type) else "INTEGER"
