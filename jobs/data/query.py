"""gpa query: ask a run in SQL."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.settings.command import Command
from jobs.settings.options import option, run_argument

if TYPE_CHECKING:
    from storage.sql.sql_query import Answer

_CUT = "only the first {limit:,} rows are shown: --limit N shows more, --limit 0 all"
_WIDE = "the rows are far wider than the screen: --vertical prints a line a column"


@click.command("query", cls=Command)
@run_argument
@click.argument("sql", metavar="[SQL]", required=False)
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values, with a header.")
@click.option("--json", "form", flag_value="json", help="Print a JSON array of objects.")
@click.option("--vertical", "form", flag_value="vertical", help="Print a line a column, for wide rows.")
@click.option(
    "--raw",
    is_flag=True,
    help="With --csv, texts as they are: without, one that a spreadsheet would run as a formula begins "
    "with an apostrophe.",
)
@option("--limit", type=click.IntRange(0), default=1000, metavar="N", help="Rows that are printed; 0 is all.")
@option("--memory", default="4GB", metavar="SIZE", help="Memory it may take; more goes to disk.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads it may use. [default: all]")
def command(
    run: Path, sql: str | None, form: str | None, raw: bool, limit: int, memory: str, threads: int | None
) -> None:
    """Answer one SQL statement (of DuckDB) over the tables of RUN, which it can only read.

    The views are prompts, candidates, scores, pairs and rejects. Those of all evaluations of the run, with
    the name of each in the column evaluation: clips (with what was measured of them), judgements,
    eval_prompts, eval_candidates, eval_scores and eval_rejects. Without SQL it lists the columns of all. SQL
    - is read from stdin.

    \b
      gpa query RUN "SELECT reward, count(*), avg(value) FROM scores GROUP BY reward"
      gpa query RUN "SELECT evaluation, model_name, avg(error) FROM clips GROUP BY ALL"
      gpa query RUN "SUMMARIZE pairs"
      gpa query RUN --csv - < question.sql
    """
    from storage.run import Run
    from storage.sql.evaluations import VIEWS, described
    from storage.sql.sql_query import StatementError, asked
    from storage.sql.views import Limits

    if raw and form != "csv":
        raise click.UsageError("--raw is for --csv: the other forms show texts as they are")
    opened = Run.open(run)
    if sql is None:
        click.echo("\n".join(map(described, VIEWS)))
        return
    text = sys.stdin.read() if sql == "-" else sql
    try:
        with asked(opened, text, Limits(memory=memory, threads=threads)) as answer:
            _print(answer, form, limit, raw)
    except StatementError as error:
        for view in error.views:
            click.echo(view, err=True)
        raise


def _print(answer: Answer, form: str | None, limit: int, raw: bool) -> None:
    rows = answer.rows if not limit else islice(answer.rows, limit)
    if form == "csv":
        _print_csv(answer.names, rows, raw)
    elif form == "json":
        _print_json(answer.names, rows)
    elif form == "vertical":
        _print_vertical(answer.names, rows)
    else:
        _print_table(answer.names, rows)
    if limit and next(answer.rows, None) is not None:
        click.echo(_CUT.format(limit=limit), err=True)


# What makes a spreadsheet take a text for a formula (OWASP, CSV injection).
_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n")


def _print_csv(names: list[str], rows: Iterable[tuple[Any, ...]], raw: bool) -> None:
    # A text is quoted for the characters that end a line: both, though only one does.
    writer = csv.writer(_Lines(), lineterminator="\r\n")
    written = _cell if raw else _harmless
    writer.writerow([written(name) for name in names])
    for row in rows:
        writer.writerow([written(value) for value in row])


class _Lines:
    def write(self, line: str) -> None:
        sys.stdout.write(line.removesuffix("\r\n") + "\n")


def _harmless(value: Any) -> str:
    """A value as text that a spreadsheet does not run. Numbers stay numbers."""
    text = _cell(value)
    runs = text.startswith(_RUN_BY_SPREADSHEETS) and not isinstance(value, (int, float, Decimal))
    return f"'{text}" if runs else text


def _print_vertical(names: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """A row as lines of its own; a text that would break them or steer the terminal as JSON writes it."""
    width = max(map(len, names))
    for number, row in enumerate(rows, start=1):
        click.echo(f"- row {number} -")
        for name, value in zip(names, row, strict=True):
            shown = _shown(value)
            click.echo(f"{name:{width}s} | {shown if shown.isprintable() else json.dumps(shown)}")


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
    shown = [[_shown(value) for value in row] for row in held]
    for cells in shown:
        table.add_row(*map(Text, cells))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)
    # One long text is well read in lines; many columns are not.
    if sum(max(map(len, column)) for column in zip(names, *shown, strict=True)) > 2 * console.width:
        click.echo(_WIDE, err=True)


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
