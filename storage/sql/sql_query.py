"""A question to a run in SQL: one statement that only reads, over views of its tables and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from storage.errors import UserError
from storage.run import Run
from storage.sql.evaluations import OF_EVALUATIONS, VIEWS, described
from storage.sql.views import Limits, session

_BATCH_ROWS = 2048
_RULE = "give one statement of SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW, PIVOT .. IN or EXPLAIN"
# Faults of the statement; every other error may come from a shard, which `session` then names.
_OF_THE_STATEMENT = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.PermissionException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.OutOfMemoryException,
    duckdb.NotImplementedException,
    duckdb.TransactionException,
)


class StatementError(UserError):
    """A statement that cannot be answered; `views` are those whose names it may have meant, with columns."""

    def __init__(self, message: str, views: Sequence[str]) -> None:
        super().__init__(message)
        self.views = tuple(map(described, views))


@dataclass(frozen=True)
class Answer:
    """The names of the columns, and rows as they come."""

    names: list[str]
    rows: Iterator[tuple[Any, ...]]


@contextmanager
def asked(run: Run, sql: str, limits: Limits | None = None) -> Iterator[Answer]:
    """Run one statement over the tables of a run and of its evaluations (`VIEWS`), one row per key.

    It can read no file but the shards of these tables, write nothing, and change no setting. Raises UserError
    with the position for a statement that is wrong, not one, or more than a question.
    """
    _require_question(sql)
    # Making a view looks at the keys of its table once: those that are not named are left out.
    named = _named(sql) or VIEWS
    tables, evaluated = (
        [view for view in named if (view in OF_EVALUATIONS) is of_them] for of_them in (False, True)
    )
    try:
        with session(run, *tables, evaluated=evaluated, limits=limits) as connection:
            connection.execute("SET errors_as_json = true")
            connection.execute("SET lock_configuration = true")
            connection.execute("BEGIN TRANSACTION READ ONLY")
            try:
                reader = _bound(connection, sql).to_arrow_reader(_BATCH_ROWS)
                yield Answer(reader.schema.names, (row for batch in reader for row in _rows(batch)))
            except _OF_THE_STATEMENT as error:
                raise _explained(error, sql) from error
    except duckdb.Error as error:
        raise _explained(error, sql) from error


def _named(sql: str) -> list[str]:
    """The views whose names stand in a statement."""
    return [view for view in VIEWS if re.search(rf"(?<!\w){view}(?!\w)", sql, re.IGNORECASE)]


def _bound(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    try:
        return connection.sql(sql)
    except _OF_THE_STATEMENT:
        # Of the two ways into DuckDB only this one gives the position of what it cannot bind.
        connection.execute(sql)
        raise


def _require_question(sql: str) -> None:
    """Refuse, as UserError, all but one statement that can only read, as DuckDB's own parser sees it."""
    statements = _parsed(sql, sql)
    if len(statements) != 1:
        raise UserError(f"got {len(statements)} SQL statements: {_RULE}")
    statement = statements[0]
    if statement.type == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains.
        inner = _parsed(_after_explain(sql), sql)
        kinds = {one.type for one in inner}
    else:
        kinds = {statement.type}
    if kinds != {duckdb.StatementType.SELECT}:
        name = sorted(kind.name for kind in kinds)[0].replace("_", " ")
        raise UserError(f"gpa query only reads, got a statement of kind {name}: {_RULE}")
    if statement.named_parameters:
        raise UserError(f"the statement has parameters ({_names(statement)}): write their values into it")


def _names(statement: duckdb.Statement) -> str:
    return ", ".join(f"${name}" for name in sorted(statement.named_parameters))


def _parsed(sql: str, whole: str) -> list[duckdb.Statement]:
    with duckdb.connect() as connection:
        connection.execute("SET errors_as_json = true")
        try:
            return list(connection.extract_statements(sql))
        except duckdb.Error as error:
            raise _explained(error, whole, len(whole.encode()) - len(sql.encode())) from error


def _after_explain(sql: str) -> str:
    """What stands after EXPLAIN and ANALYZE, by DuckDB's own tokens."""
    data = sql.encode()
    starts = [start for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]
    ends = [*starts[1:], len(data)]
    words = [data[start:end].split()[0].lower() for start, end in zip(starts, ends, strict=True)]
    explained = 2 if words[1:2] == [b"analyze"] else 1
    return data[starts[explained] :].decode()


def _explained(error: duckdb.Error, sql: str, skipped: int = 0) -> StatementError:
    """One line: what is wrong, at which line and column."""
    text = str(error)
    try:
        said: dict[str, str] = json.loads(text[text.index("{") :])
    except ValueError:
        said = {}
    message = said.get("exception_message", text).split("\n")[0]
    hint = [line for line in said.get("exception_message", "").split("\n") if line.startswith("Did you mean")]
    where = ""
    if "position" in said:
        before = sql.encode()[: int(said["position"]) + skipped].decode(errors="replace")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        where = f" at line {line}, column {column}"
    if isinstance(error, duckdb.OutOfMemoryException):
        hint = ["give it more memory, or ask for less"]
    remedy = "; ".join(hint) or f"the views are {', '.join(VIEWS)}; DESCRIBE NAME shows the columns of one"
    return StatementError(f"SQL error{where}: {message} ({remedy})", _there_are(message, sql))


def _there_are(message: str, sql: str) -> list[str]:
    """The views among which a name that does not exist was looked for; none when it is another fault."""
    if message.startswith("Table with name"):
        return list(VIEWS)
    return _named(sql) if re.search(r"^Referenced column|does not have a column", message) else []


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)
