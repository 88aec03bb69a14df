"""The gpa commands that an ablation is made of, as words that a user could type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from jobs.settings.presets import Preset, of_run

_SPREAD = ("sample", "score", "evaluate")


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Words of commands on one run and preset.

    `extra` are options that the user gave for every sample, train-dpo or evaluate; they come last, so that
    they hold whatever a recipe says. `workers` and `threads` (of a training) None leave their number to the
    preset.
    """

    run: Path
    preset: Preset
    workers: int | None = None
    threads: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def words(self, name: str, *own: str) -> list[str]:
        """The words of a command behind its name."""
        spread = ["--workers", str(self.workers)] if self.workers is not None and name in _SPREAD else []
        if self.threads is not None and name == "train-dpo":
            spread = ["--threads", str(self.threads)]
        # What a run remembers of a file needs no file.
        kept = self.preset.own and of_run(self.run) == self.preset
        named = [] if kept else ["--preset", str(self.preset)]
        return [str(self.run), *named, *own, *spread, *shlex.split(self.extra.get(name, ""))]

    def line(self, name: str, *own: str) -> str:
        """The command as it would be typed."""
        return f"gpa {name} {shlex.join(self.words(name, *own))}"

    def params(self, name: str, *own: str) -> dict[str, Any]:
        """The options as the command receives them. Raises click's UsageError for words that are none."""
        from jobs.main import named_command

        try:
            return dict(named_command(name).make_context(name, self.words(name, *own)).params)
        except click.UsageError as error:
            given = self.extra.get(name)
            where = f"--{name.removesuffix('-dpo')} {given!r}: " if given else ""
            raise click.UsageError(f"{where}{error.format_message()}") from error

    def give(self, name: str, *own: str) -> int:
        """Run the command in this process, its output on stderr; returns its exit code.

        What the command raises goes through.
        """
        from jobs.main import named_command

        click.secho(f"$ {self.line(name, *own)}", bold=True, err=True)
        with redirect_stdout(sys.stderr):
            code = named_command(name).main(
                args=self.words(name, *own), prog_name=f"gpa {name}", standalone_mode=False
            )
        return code if isinstance(code, int) else 0

    def require(self, name: str, *own: str) -> None:
        """Run the command; items that fail are said by it. Raises UserError when it ends otherwise."""
        from jobs.main import PARTIAL
        from storage.errors import UserError

        code = self.give(name, *own)
        if code not in (0, PARTIAL):
            raise UserError(f"gpa {name} ended with {code}: see above")
