"""DuckDB over the Parquet shards of a run: nothing is copied, values are always bound."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import UserError
from storage.migrations import OlderShard
from storage.run import Run
from storage.schemas import ADDED, KEYS, PAIR_TENSORS, TABLES, default_columns, open_shard
from storage.shards import read_rows, shard_files

# Of the rows that racing processes wrote under one key, the one a reader sees (as in shards.read_rows).
_ONE_PER_KEY = """
    CREATE VIEW {table} AS
    SELECT * EXCLUDE (filename, file_row_number) FROM raw_{table}
    QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {preference} filename, file_row_number) = 1
"""

_VERSIONS = """
    SELECT reward_version, count(*) AS rows FROM scores WHERE reward = $reward
    GROUP BY reward_version ORDER BY rows DESC, reward_version
"""

_SCORED = "SELECT candidate_id FROM scores WHERE reward = $reward AND reward_version = $reward_version"


def connect(run: Run, tables: Sequence[str] = tuple(TABLES)) -> duckdb.DuckDBPyConnection:
    """A connection with a view per table, one row per key; it reaches no file outside of the run's tables.

    Raises UserError naming a shard that is truncated, foreign or of another schema version.
    """
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    connection.execute(
        "SET temp_directory = $folder", {"folder": str(Path(tempfile.gettempdir()) / "gpa-duckdb")}
    )
    for table in tables:
        _create_view(connection, run, table)
    folders = [f"{run.shard_dir(table).absolute()}/" for table in tables]
    connection.execute("SET allowed_directories = $folders", {"folders": folders})
    connection.execute("SET enable_external_access = false")
    return connection


def existing_ids(run: Run, table: str, *, status: str | None = None) -> set[str]:
    """The ids that a table already holds (its first key column), candidates optionally of one status only."""
    key = KEYS[table][0]
    columns = [key] if status is None else [key, "status"]
    rows = run.rows(table, columns)
    if status is not None:
        rows = rows.filter(pc.equal(rows["status"], status))
    return set(rows[key].to_pylist())


def scored_ids(run: Run, reward: str, reward_version: str) -> set[str]:
    """The candidates that this version of a reward has judged, unscorable ones included."""
    with session(run, "scores") as connection:
        rows = fetch(connection, _SCORED, {"reward": reward, "reward_version": reward_version})
    return {str(row[0]) for row in rows}


def reward_versions(run: Run, reward: str) -> list[tuple[str, int]]:
    """The versions of a reward with their numbers of scores, the most used first."""
    with session(run, "scores") as connection:
        return [(str(row[0]), int(row[1])) for row in fetch(connection, _VERSIONS, {"reward": reward})]


def _create_view(connection: duckdb.DuckDBPyConnection, run: Run, table: str) -> None:
    today: list[Path] = []
    older: list[pa.Table] = []
    found: set[str] = set()
    for path in shard_files(run.shard_dir(table)):
        with open_shard(path, table) as shard:
            found.update(shard.schema_arrow.names)
            if isinstance(shard, OlderShard):
                older.append(_with_place(shard.read(columns=default_columns(table)), path))
            else:
                today.append(path)
    parts = []
    if today:
        # An index of pairs lacks the tensor columns, and old scores the columns that came later.
        parts.append(
            connection.read_parquet(
                [str(path) for path in today],
                filename=True,
                file_row_number=True,
                union_by_name=table == "pairs" or table in ADDED,
            )
        )
    if older:
        # What rules change as it is read is held in memory: never pair tensors.
        connection.register(f"older_{table}", pa.concat_tables(older, promote_options="default"))
        parts.append(connection.table(f"older_{table}"))
    if parts:
        for number, part in enumerate(parts):
            part.create_view(f"part_{table}_{number}")
        union = " UNION ALL BY NAME ".join(f"FROM part_{table}_{number}" for number in range(len(parts)))
        missing = [name for name in ADDED.get(table, ()) if name not in found and name not in PAIR_TENSORS]
        empty = "".join(f", NULL::{_sql_type(table, name)} AS {name}" for name in missing)
        connection.execute(f"CREATE VIEW raw_{table} AS SELECT *{empty} FROM ({union})")
    else:
        connection.register("no_rows", TABLES[table].empty_table())
        connection.execute(
            f"CREATE TABLE raw_{table} AS SELECT *, '' AS filename, 0 AS file_row_number FROM no_rows"
        )
        connection.unregister("no_rows")
    # Only names from schemas.py are put into the text of a statement, never a value.
    preference = "status = 'ok' DESC, latent_uri IS NULL," if table == "candidates" else ""
    connection.execute(_ONE_PER_KEY.format(table=table, keys=", ".join(KEYS[table]), preference=preference))


def _with_place(rows: pa.Table, path: Path) -> pa.Table:
    """Rows with the columns by which DuckDB tells where a row of a file lies."""
    return rows.append_column("filename", pa.array([str(path)] * rows.num_rows, pa.string())).append_column(
        "file_row_number", pa.array(range(rows.num_rows), pa.int64())
    )


def _sql_type(table: str, column: str) -> str:
    return "DOUBLE" if pa.types.is_floating(TABLES[table].field(column).type) else "INTEGER"


@contextmanager
def session(run: Run, *tables: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for a few statements; an error of DuckDB becomes one that names the damaged shard.

    Raises UserError, too, when another command replaced shards while the statements ran.
    """
    listed = {path for table in tables for path in shard_files(run.shard_dir(table))}
    connection = connect(run, tables)
    try:
        yield connection
    except duckdb.Error as error:
        if any(not path.exists() for path in listed):
            raise UserError(
                f"another command replaced files of {run.path} while they were read: run this one again"
            ) from error
        # Footers were sound when the views were made, so a page may be damaged: reading all names the file.
        for table in tables:
            read_rows(run.shard_dir(table), table)
        raise
    finally:
        connection.close()


def fetch(
    connection: duckdb.DuckDBPyConnection, statement: str, values: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """All rows of a statement, its values bound by name."""
    return list(connection.execute(statement, values or {}).fetchall())
