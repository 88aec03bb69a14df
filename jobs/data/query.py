"""gpa query: ask a run in SQL."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import click

from jobs.settings.command import Command
from jobs.settings.options import option, run_argument

_CUT = "only the first {limit:,} rows are shown: --limit N shows more, --limit 0 all"


@click.command("query", cls=Command)
@run_argument
@click.argument("sql", metavar="SQL")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values, with a header.")
@click.option("--json", "form", flag_value="json", help="Print a JSON array of objects.")
@option("--limit", type=click.IntRange(0), default=1000, metavar="N", help="Rows that are printed; 0 is all.")
@option("--memory", default="4GB", metavar="SIZE", help="Memory it may take; more goes to disk.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads it may use. [default: all]")
def command(run: Path, sql: str, form: str | None, limit: int, memory: str, threads: int | None) -> None:
    """Answer one SQL statement (of DuckDB) over the tables of RUN, which it can only read.

    The views are prompts, candidates, scores, pairs and rejects. SQL - is read from stdin.

    \b
      gpa query RUN "SELECT reward, count(*), avg(value) FROM scores GROUP BY reward"
      gpa query RUN "SUMMARIZE pairs"
      gpa query RUN --csv - < question.sql
    """
    from storage.run import Run
    from storage.sql.sql_query import asked
    from storage.sql.views import Limits

    text = sys.stdin.read() if sql == "-" else sql
    with asked(Run.open(run), text, Limits(memory=memory, threads=threads)) as answer:
        rows = answer.rows if not limit else islice(answer.rows, limit)
        if form == "csv":
            _print_csv(answer.names, rows)
        elif form == "json":
            _print_json(answer.names, rows)
        else:
            _print_table(answer.names, rows)
        if limit and next(answer.rows, None) is not None:
            click.echo(_CUT.format(limit=limit), err=True)


def _print_csv(names: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(value) for value in row])


def _print_json(names: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """One object a line, so that it can be read as it comes; JSON has no NaN and no infinity: null."""
    separator = "["
    for row in rows:
        values = {name: _plain(value) for name, value in zip(_distinct(names), row, strict=True)}
        click.echo(f"{separator}{json.dumps(values, allow_nan=False)}", nl=False)
        separator = ",\n"
    click.echo("]" if separator != "[" else "[]")


def _print_table(names: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    held = list(rows)
    for number, name in enumerate(names):
        numeric = all(isinstance(row[number], (int, float, type(None))) for row in held)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in held:
        table.add_row(*(Text(_shown(value)) for value in row))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else _cell(value)


def _cell(value: Any) -> str:
    """A value as text: that of a list or a struct is JSON, that of bytes base64."""
    if value is None:
        return ""
    if isinstance(value, (list, dict, bytes)):
        plain = _plain(value)
        return plain if isinstance(plain, str) else json.dumps(plain)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _distinct(names: list[str]) -> list[str]:
    """Names as keys: a repeated one has its number after it."""
    return [name if name not in names[:at] else f"{name}_{at + 1}" for at, name in enumerate(names)]
