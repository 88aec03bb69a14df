"""What commands share: options, the end of a command, recorded configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.settings.presets import Preset

if TYPE_CHECKING:
    from pipeline.engine.runners import Summary
    from pipeline.sampling.prompt_length import LongPrompt

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _run(_ctx: click.Context, _argument: click.Parameter, run: Path) -> Path:
    """Refused before Ray starts, and before anything is made."""
    from storage.texts import require_utf8_name

    require_utf8_name(run, "the run")
    return run


run_argument = click.argument("run", type=click.Path(path_type=Path), metavar="RUN", callback=_run)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
below_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Write below this folder. [default: the temporary one]",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Count what would be done; write nothing.")


def option(*names: str, **attributes: Any) -> Callable[[FunctionT], FunctionT]:
    """A click option whose default the help shows (it comes from the preset)."""
    return click.option(*names, **{"show_default": True, **attributes})


def recordable(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a command as run.yaml keeps them: without the run and what shapes the output."""
    skipped = {"run", "as_json", "dry_run"}
    return {
        name: str(value)
        if isinstance(value, (Path, Preset))
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in sorted(parameters.items())
        if name not in skipped
    }


def taken_adapter(path: Path | None) -> Path | None:
    """The adapter folder that a path stands for, said where it is one inside it. Raises UserError."""
    from storage.adapters import locate_adapter

    if path is None:
        return None
    taken = locate_adapter(Path(path))
    if taken != Path(path):
        click.echo(f"note: of the training {path}, {taken.relative_to(path)} is taken", err=True)
    return taken


def print_result(values: dict[str, Any], as_json: bool, text: str) -> None:
    """The result of a command on stdout: one JSON object or words."""
    click.echo(json.dumps(values, sort_keys=True) if as_json else text)


def listed(long: Sequence[LongPrompt]) -> str:
    """The prompts whose end the model does not see, a line each; nothing where there are none."""
    lines = "".join(f"\n  {one.tokens} tokens: {' '.join(one.text.split())}" for one in long)
    return f"\n{len(long):,} prompts are longer than what the model reads of them:{lines}" if long else ""


def counts(summary: Summary) -> dict[str, Any]:
    """A summary as plain values."""
    return {
        "wanted": summary.wanted,
        "present": summary.present,
        "done": summary.done,
        "failed": summary.failed,
        "reason": summary.reason,
    }


def finish(ctx: click.Context, summary: Summary, unit: str, where: str) -> None:
    """Say how many items failed and exit with 3 when any did."""
    if summary.failed:
        with_flags = getattr(ctx.command, "with_flags", str)
        reason = with_flags(str(summary.reason))
        click.echo(f"{summary.failed} {unit} failed ({where}), the last: {reason}", err=True)
        ctx.exit(3)
