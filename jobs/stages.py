"""Commands that run other commands, each printed as a user would type it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

import click


def run_stage(words: Sequence[str]) -> float:
    """Run a gpa command in this process and return the seconds it took.

    What a command raises ends the caller too; a command that finished with failed items (exit code 3) does
    not.
    """
    from jobs.main import PARTIAL, named_command

    click.secho(f"\n$ gpa {shlex.join(words)}", bold=True)
    started = time.perf_counter()
    name, *given = words
    code: Any = named_command(name).main(args=given, prog_name=f"gpa {name}", standalone_mode=False)
    if isinstance(code, int) and code not in (0, PARTIAL):
        click.get_current_context().exit(code)
    seconds = time.perf_counter() - started
    click.echo(f"({name}: {seconds:.0f} s)")
    return seconds
