"""Commands that run other commands, each printed as a user would type it."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import IO, Any

import click


def parsed_options(name: str, before: Sequence[str], text: str) -> click.Context:
    """The quoted options of a command as its own command line would have them, behind the words `before`.

    Raises click.UsageError that says whose they are.
    """
    from jobs.main import named_command

    try:
        return named_command(name).make_context(name, [*before, *shlex.split(text)])
    except click.UsageError as error:
        raise click.UsageError(f"--{name} {text!r}: {error.format_message()}") from error


def run_stage(words: Sequence[str], result: IO[str] | None = None) -> float:
    """Run a gpa command in this process and return the seconds it took.

    Where `result` is given, it takes the result as JSON and nothing of it is printed. What a command raises
    ends the caller too; a command that finished with failed items (exit code 3) does not.
    """
    from jobs.main import PARTIAL, named_command

    click.secho(f"\n$ gpa {shlex.join(words)}", bold=True)
    started = time.perf_counter()
    name, *given = words
    if result is not None:
        given.append("--json")
    with redirect_stdout(sys.stdout if result is None else result):
        code: Any = named_command(name).main(args=given, prog_name=f"gpa {name}", standalone_mode=False)
    if isinstance(code, int) and code not in (0, PARTIAL):
        click.get_current_context().exit(code)
    seconds = time.perf_counter() - started
    click.echo(f"({name}: {seconds:.0f} s)")
    return seconds
