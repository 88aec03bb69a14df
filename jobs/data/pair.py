"""gpa pair: preference pairs from scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.settings.command import PresetCommand, preset_option, recipe_option
from jobs.settings.from_dataclass import Setting, built, options_of
from jobs.settings.options import dry_run_option, json_option, option, recordable, run_argument
from storage.errors import FieldError
from storage.mining.rules import BASE, PairSettings

if TYPE_CHECKING:
    from pipeline.forecast.forecast import Forecast
    from pipeline.pairing import PairResult
    from storage.mining.mining import Applied
    from storage.run import Run
    from storage.sql.views import Limits


@click.command("pair", cls=PresetCommand)
@run_argument
@preset_option
@recipe_option
@options_of(PairSettings)
@option(
    "--memory",
    default="4GB",
    metavar="SIZE",
    help="Memory for the ranking; more goes to disk.",
    cls=Setting,
    group="Compute",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Threads for it. [default: all]",
    cls=Setting,
    group="Compute",
)
@dry_run_option
@json_option
def command(run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Rank the candidates of every prompt of RUN and write preference pairs.

    Prints how many candidates and prompts each rule cost. The pairs carry all tensors that training needs.
    The directory holds one selection: the same command changes nothing, other settings replace it.
    --decisions apply after all rules, and pairs that a person kept or swapped say so in the column human.
    """
    from pipeline.pairing import run_pair
    from storage.run import Run

    settings, limits = pair_settings(chosen)
    opened = Run.open(run)
    _warn_of_forgotten(opened, settings)
    result = run_pair(
        opened,
        settings,
        write=not dry_run,
        before_work=lambda: opened.record("pair", recordable(chosen)),
        limits=limits,
    )
    told = _foretold(opened, result, settings) if dry_run else None
    if as_json:
        _print_json(result, told)
    else:
        _print_table(result, told)


def _foretold(run: Run, result: PairResult, settings: PairSettings) -> Forecast:
    from pipeline.forecast.commands import forecast_pair  # with what evaluates, and much that takes long

    return forecast_pair(run, result, index_only=settings.index_only)


def pair_settings(chosen: dict[str, Any]) -> tuple[PairSettings, Limits]:
    """What the options of the command say of the pairs, and what ranking them may take."""
    from storage.sql.views import Limits

    chosen = {**chosen, "adapter": _adapter_id(chosen.get("adapter"))}
    return built(PairSettings, chosen), Limits(memory=chosen["memory"], threads=chosen["threads"])


# As `adapter_id` makes them.
_ID = re.compile(r"[0-9a-f]{32}")


def _adapter_id(named: str | None) -> str | None:
    """The id that candidates have of an adapter; what is no folder is one itself."""
    from pipeline.models import adapter_id

    if named in (None, BASE, "all") or _ID.fullmatch(str(named)):
        return named
    if not named or not Path(str(named)).is_dir():
        raise FieldError("adapter", "a LoRA folder, the id of an adapter, base or all", named)
    return adapter_id(Path(str(named)))


def _print_json(result: PairResult, told: Forecast | None) -> None:
    import json

    steps = [step._asdict() for step in result.funnel]
    values: dict[str, Any] = {
        "pairs": result.pairs,
        "prompts": result.prompts,
        "reward_version": result.rules.reward_version,
        "funnel": steps,
        "unmeasured": result.unmeasured,
        "idle": list(result.idle),
        "adapters": result.adapters,
    }
    if result.applied is not None:
        values["decisions"] = result.applied.as_dict()
    values |= {"directory": str(result.directory)} | ({} if told is None else told.as_dict())
    click.echo(json.dumps(values, sort_keys=True))


def _print_table(result: PairResult, told: Forecast | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Pairs by {result.rules.reward} {result.rules.reward_version}", title_justify="left")
    table.add_column("rule")
    for name in ("candidates lost", "prompts lost", "candidates left"):
        table.add_column(name, justify="right")
    for step in result.funnel:
        table.add_row(step.rule, *(f"{value:,}" for value in step[1:]))
    Console().print(table)
    if result.unmeasured:
        click.echo(
            f"{result.unmeasured:,} candidates pass the rules on cuts, fades, bars and copies: "
            "they were scored before these were measured"
        )
    if result.idle:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in result.idle)
        click.echo(f"no bound: {flags}, because no score of reward {result.rules.reward} has what they bound")
    if result.adapters > 1:
        click.echo(
            f"candidates of {result.adapters} adapters (the base counts as one) rank together: --adapter "
            "takes those of one"
        )
    if result.applied is not None:
        click.echo(_by_hand(result.applied))
    if told is None:
        same = "" if result.changed else " (unchanged)"
        click.echo(f"{result.pairs:,} pairs of {result.prompts:,} prompts in {result.directory}{same}")
        return
    click.echo(f"{result.prompts:,} prompts: {told}\nnot written (dry run), would be in {result.directory}")


def _by_hand(applied: Applied) -> str:
    text = f"by hand: {applied.keep:,} kept, {applied.swap:,} swapped, {applied.drop:,} dropped"
    if applied.without_pair:
        text += f"; {applied.without_pair:,} decisions are of pairs that these rules do not make"
    return text


def _warn_of_forgotten(run: Run, settings: PairSettings) -> None:
    """Say that pairs made with decisions are about to be replaced by pairs made without."""
    before = run.header()["commands"].get("pair", {}).get("config", {}).get("decisions")
    if before and settings.decisions is None and settings.out is None:
        click.echo(
            f"warning: the last gpa pair applied the decisions of {before}, this one has no --decisions",
            err=True,
        )
