"""gpa compact: fewer, larger shards."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.settings.command import Command
from jobs.settings.options import dry_run_option, json_option, option, run_argument

if TYPE_CHECKING:
    from storage.upkeep.compact import Compacted

_IN_USE = "{kept} shards of {table} are being read and were kept: the same command removes them later"


@click.command("compact", cls=Command)
@run_argument
@click.option("--table", "only", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@option("--memory", default="4GB", metavar="SIZE", help="Memory it may take; more goes to disk.")
@option("--wait", default=10.0, metavar="SECONDS", help="How long to wait for readers of old shards.")
@dry_run_option
@json_option
def command(run: Path, only: tuple[str, ...], memory: str, wait: float, dry_run: bool, as_json: bool) -> None:
    """Merge the small shards of RUN into few, each row once.

    No row is lost and no answer changes; it may be stopped at any time, and others may read and add rows
    meanwhile. Pairs with tensors keep their small row groups.
    """
    from storage.run import Run
    from storage.sql.views import Limits
    from storage.tables.schemas import TABLES
    from storage.upkeep.compact import compact_table

    unknown = [name for name in only if name not in TABLES]
    if unknown:
        raise click.UsageError(f"there is no table {unknown[0]!r}: choose from {', '.join(TABLES)}")
    opened = Run.open(run)
    limits = Limits(memory=memory)
    found = [
        compact_table(opened, table, write=not dry_run, limits=limits, wait=wait) for table in only or TABLES
    ]
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], sort_keys=True))
    else:
        _print_table(found, dry_run)
    for one in found:
        if one.kept:
            click.echo(_IN_USE.format(kept=one.kept, table=one.table), err=True)


def _print_table(found: list[Compacted], dry_run: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Shards" + (" (dry run)" if dry_run else ""), title_justify="left")
    table.add_column("table")
    for name in ("rows", "before", "after"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(one.table, f"{one.rows:,}", f"{one.before:,}", f"{one.after:,}")
    Console().print(table)
