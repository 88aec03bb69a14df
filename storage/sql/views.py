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
from storage.run import Run
from storage.sql.evaluations import Part, parts_of, statements
from storage.tables.reading import reading
from storage.tables.schemas import ADDED, KEYS, PAIR_TENSORS, TABLES, default_columns, open_shard
from storage.tables.shards import read_rows, shard_files
from storage.tables.versions import OlderShard

_OPENERS = 8

# The shards themselves are views of a schema of their own; what a query sees is in the default one.
_HASHES = "SELECT hash({keys}) AS key_hash FROM {shards}.{table}"
_REPEATED = "CREATE TABLE {shards}.{table}_repeated AS SELECT key_hash FROM hashes"
_ALL = "CREATE VIEW {schema}.{table} AS SELECT * EXCLUDE (filename, file_row_number) FROM {shards}.{table}"
# Of the rows that racing processes wrote under one key, the one a reader sees (as in shards.read_rows).
_ONE_PER_KEY = """
    CREATE VIEW {schema}.{table} AS
    SELECT * EXCLUDE (filename, file_row_number)
    FROM {shards}.{table} ANTI JOIN {shards}.{table}_repeated ON key_hash = hash({keys})
    UNION ALL
    SELECT * EXCLUDE (filename, file_row_number) FROM (
        SELECT * FROM {shards}.{table} SEMI JOIN {shards}.{table}_repeated ON key_hash = hash({keys})
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
    evaluated: Sequence[str] = (),
    repeats: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A connection with a view per table, one row per key; it reaches no file but the shards of the tables.

    `evaluated` are views of the run's evaluations beside them (evaluations.py). With `repeats` the views of
    tables have every row that was written, and making them does not look at the keys. Raises
    UserError naming a shard that is truncated, foreign or of another schema version.
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
    parts = parts_of(run, tables, evaluated)
    allowed = [str(path) for part in parts for path in _create_view(connection, part, repeats)]
    for statement in statements(evaluated, parts):
        connection.execute(statement)
    connection.execute("SET allowed_paths = $files", {"files": allowed})
    connection.execute("SET enable_external_access = false")
    return connection


@contextmanager
def session(
    run: Run,
    *tables: str,
    evaluated: Sequence[str] = (),
    limits: Limits | None = None,
    repeats: bool = False,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for a few statements; an error of DuckDB becomes one that names the damaged shard.

    Raises UserError, too, when another command replaced shards while the statements ran.
    """
    with ExitStack() as held:
        parts = parts_of(run, tables, evaluated)
        for part in parts:
            held.enter_context(reading(part.run.shard_dir(part.table)))
        listed = [path for part in parts for path in shard_files(part.run.shard_dir(part.table))]
        connection = connect(run, tables, limits, evaluated=evaluated, repeats=repeats)
        held.callback(connection.close)
        try:
            yield connection
        except duckdb.Error as error:
            if any(not path.exists() for path in listed):
                raise UserError(
                    f"another command replaced files of {run.path} while they were read: run this one again"
                ) from error
            # Footers were sound when the views were made, so a page may be damaged: reading names the file.
            for part in parts:
                read_rows(part.run.shard_dir(part.table), part.table)
            raise


def fetch(
    connection: duckdb.DuckDBPyConnection, statement: str, values: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """All rows of a statement, its values bound by name."""
    return list(connection.execute(statement, values or {}).fetchall())


def _create_view(connection: duckdb.DuckDBPyConnection, part: Part, repeats: bool) -> list[Path]:
    """Make the view of a table; the shards it reads."""
    table = part.table
    files = [path.absolute() for path in shard_files(part.run.shard_dir(table))]
    # Only names of tables, columns and parts are put into the text of a statement, never a value.
    names = {"table": table, "schema": part.schema, "keys": ", ".join(KEYS[table])}
    names["shards"] = "shards" if part.schema == "main" else f"shards_{part.schema}"
    names["preference"] = "status = 'ok' DESC, latent_uri IS NULL," if table == "candidates" else ""
    for schema in (names["schema"], names["shards"]):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    connection.execute(f"SET schema = '{names['shards']}'")
    _create_shard_view(connection, table, files)
    connection.execute("SET schema = 'main'")
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
    repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    # pa.array() would import pandas, a third of the time of a small question.
    return pa.Array.from_buffers(pa.uint64(), len(repeated), [None, pa.py_buffer(repeated)])


def _create_shard_view(connection: duckdb.DuckDBPyConnection, table: str, files: list[Path]) -> None:
    """Make the view of a table's shards as they are, in the schema that is set."""
    if not files:
        connection.register("no_rows", TABLES[table].empty_table())
        place = "'' AS filename, 0 AS file_row_number"
        connection.execute(f"CREATE TABLE {table} AS SELECT *, {place} FROM no_rows")
        connection.unregister("no_rows")
        return
    with ThreadPoolExecutor(_OPENERS) as pool:
        opened = list(pool.map(lambda path: _columns_and_older_rows(path, table), files))
    found = set().union(*(names for names, _ in opened))
    today = [str(path) for path, (_, rows) in zip(files, opened, strict=True) if rows is None]
    older = [rows for _, rows in opened if rows is not None]
    parts = []
    if today:
        # An index of pairs lacks the tensor columns, and old scores the columns that came later.
        by_name = table == "pairs" or table in ADDED
        parts.append(
            connection.read_parquet(today, filename=True, file_row_number=True, union_by_name=by_name)
        )
    if older:
        # What rules change as it is read is held in memory: never pair tensors.
        connection.register(f"older_{table}", pa.concat_tables(older, promote_options="default"))
        parts.append(connection.table(f"older_{table}"))
    for number, part in enumerate(parts):
        part.create_view(f"{table}_{number}")
    union = " UNION ALL BY NAME ".join(f"FROM {table}_{number}" for number in range(len(parts)))
    missing = [name for name in ADDED.get(table, ()) if name not in found and name not in PAIR_TENSORS]
    empty = "".join(f", NULL::{_sql_type(table, name)} AS {name}" for name in missing)
    connection.execute(f"CREATE VIEW {table} AS SELECT *{empty} FROM ({union})")


def _columns_and_older_rows(path: Path, table: str) -> tuple[set[str], pa.Table | None]:
    """The columns of a shard, and its rows when they are of an older schema version."""
    with open_shard(path, table) as shard:
        names = set(shard.schema_arrow.names)
        if not isinstance(shard, OlderShard):
            return names, None
        rows = shard.read(columns=default_columns(table))
    # With the columns by which DuckDB tells where a row of a file lies.
    place = pa.array([str(path)] * rows.num_rows, pa.string())
    rows = rows.append_column("filename", place)
    return names, rows.append_column("file_row_number", pa.array(range(rows.num_rows), pa.int64()))


def _sql_type(table: str, column: str) -> str:
    kind = TABLES[table].field(column).type
    if pa.types.is_string(kind):
        return "VARCHAR"
    value = kind.value_type if pa.types.is_list(kind) else kind
    name = "DOUBLE" if pa.types.is_floating(value) else "INTEGER"
    return f"{name}[]" if pa.types.is_list(kind) else name


_VERSIONS = """
    SELECT reward_version, count(*) AS rows FROM scores WHERE reward = $reward
    GROUP BY reward_version ORDER BY rows DESC, reward_version
"""

_SCORED = "SELECT candidate_id FROM scores WHERE reward = $reward AND reward_version = $reward_version"


def scored_ids(run: Run, reward: str, reward_version: str) -> set[str]:
    """The candidates that this version of a reward has judged, unscorable ones included."""
    with session(run, "scores") as connection:
        rows = fetch(connection, _SCORED, {"reward": reward, "reward_version": reward_version})
    return {str(row[0]) for row in rows}


def reward_versions(run: Run, reward: str) -> list[tuple[str, int]]:
    """The versions of a reward with their numbers of scores, the most used first.

    A version that is the only one is counted as it was written, repeated rows included.
    """
    # Counting every row once takes ten times longer, and matters only to whoever has to choose.
    with session(run, "scores", repeats=True) as connection:
        found = _versions(connection, reward)
    if len(found) > 1:
        with session(run, "scores") as connection:
            found = _versions(connection, reward)
    return found


def _versions(connection: duckdb.DuckDBPyConnection, reward: str) -> list[tuple[str, int]]:
    return [(str(row[0]), int(row[1])) for row in fetch(connection, _VERSIONS, {"reward": reward})]
