"""gpa score: a reward for every candidate."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.head_start import begin_scoring
from jobs.settings.command import PresetCommand, preset_option, recipe_option
from jobs.settings.from_dataclass import built, names_of, options_of, union_of
from jobs.settings.options import (
    counts,
    dry_run_option,
    finish,
    json_option,
    print_result,
    recordable,
    run_argument,
)
from pipeline.scoring.settings import ScoreSettings
from rewards.errors import RewardError
from rewards.table import REWARDS

if TYPE_CHECKING:
    from pipeline.scoring.score import ScorePlan
    from rewards.geometry.reconstruction import GeometryInfo
    from rewards.rasterise.rasterisers import Choice
    from storage.run import Run


_logger = logging.getLogger(__name__)


def _options_of_rewards() -> type:
    """The options of all rewards: each brings its own; a package that contradicts others is left out."""
    of_packages = REWARDS.of_packages()
    classes: dict[str, type] = {}
    union: type = union_of({})
    for name, spec in REWARDS.loadable():
        try:
            union = union_of(classes | {name: spec.options}, apart_from=names_of(ScoreSettings))
            classes[name] = spec.options
        except (RewardError, TypeError) as error:
            if name not in of_packages:
                raise
            _logger.warning("reward %r has no options here (%s): mend or uninstall its package", name, error)
    return union


RewardOptions = _options_of_rewards()


@click.command("score", cls=PresetCommand)
@run_argument
@preset_option
@recipe_option
@options_of(ScoreSettings)
@options_of(RewardOptions)
@dry_run_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Score the 3D consistency of every candidate of RUN.

    Keeps every component of a score, so that pairing can be repeated in seconds. Another reward, option or
    geometry model is another reward version beside the first; the same command again scores only what is
    missing.
    """
    settings = score_settings(chosen, given_options(ctx))
    if not dry_run:
        begin_scoring(run, chosen)
    from jobs.progress import ConsoleProgress
    from pipeline.scoring.score import plan_score, run_score
    from storage.run import Run

    opened = Run.open(run)
    drawn = settings.reward.rasteriser("cuda" if settings.gpus_per_worker > 0 else "cpu")
    if dry_run:
        from pipeline.forecast.commands import forecast_score

        plan = plan_score(opened, settings)
        told = forecast_score(opened, settings, plan)
        values = told.as_dict() | {"reward_version": plan.reward_version, "geometry": _geometry(plan)}
        values |= {"rasteriser": None if drawn is None else drawn.name}
        shown = "" if drawn is None else f"\nrasteriser: {drawn.name} ({drawn.reason})"
        print_result(values, as_json, f"{chosen['reward']} version {plan.reward_version}: {told}{shown}")
        return
    plan, summary = run_score(
        opened,
        settings,
        progress=ConsoleProgress("candidates"),
        before_work=lambda plan: _begin(opened, chosen, plan, drawn),
    )
    text = (
        f"{summary.done} candidates scored, {summary.present} were, {summary.failed} failed: "
        f"{chosen['reward']} version {plan.reward_version}"
    )
    values = {**counts(summary), "reward_version": plan.reward_version, "geometry": _geometry(plan)}
    said, broken = _footage(opened, chosen, plan.reward_version)
    print_result(values | {"footage": broken}, as_json, text + said)
    finish(ctx, summary, "candidates", "rejects, or scores without a value")


def _geometry(plan: ScorePlan) -> dict[str, Any] | None:
    return None if plan.geometry is None else dataclasses.asdict(plan.geometry)


def _footage(run: Run, chosen: dict[str, Any], version: str) -> tuple[str, dict[str, int]]:
    """What of the footage spoils the reward, by the bounds of pairing that the preset has; counts by rule."""
    from storage.mining.rules import OF_FOOTAGE, PairRules
    from storage.mining.spoilt import spoilt

    asked = chosen["preset"].sections.get("pair", {})
    bounds = {one.field: asked[one.field] for one in OF_FOOTAGE if one.field in asked}
    rules = PairRules(reward=chosen["reward"], reward_version=version, **bounds)
    total, broken = spoilt(run, rules)
    lines = [
        f"\n{one.videos:,} of {total:,} videos break the rule {one.rule}: gpa pair leaves them out "
        f"(--{one.field.replace('_', '-')} {getattr(rules, one.field):g})"
        for one in broken
    ]
    return "".join(lines), {one.rule: one.videos for one in broken}


def _begin(run: Run, chosen: dict[str, Any], plan: ScorePlan, drawn: Choice | None) -> None:
    """Record what was asked for, say whose labels these will be and what draws, before weights are loaded."""
    found = {} if drawn is None else {"drawn_by": drawn.name}
    run.record("score", recordable(chosen) | found)
    announce(plan.geometry)
    if drawn is not None and chosen.get("rasteriser") == "auto":
        click.echo(f"rasteriser: {drawn.name} ({drawn.reason})", err=True)


def announce(one: GeometryInfo | None) -> None:
    """Say whose labels scores will be, on stderr."""
    if one is None:
        return
    click.echo(f"geometry: {one.model} at {one.revision}, licence {one.license}", err=True)
    if one.is_noncommercial:
        click.echo(
            f"warning: {one.license} bars commercial use, and scores, pairs and adapters made with these "
            "weights inherit that; --geometry depth-anything has weights under Apache-2.0",
            err=True,
        )


def given_options(ctx: click.Context) -> set[str]:
    """The names of the options that the command line gives itself."""
    return {
        name
        for name in ctx.params
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def score_settings(chosen: dict[str, Any], given: Collection[str] = ()) -> ScoreSettings:
    """The settings of a scoring from the options of the command, or from a section of a preset.

    What the reward does not have is refused when the command line gives it, and left out when it comes from
    a preset that was made for another reward.
    """
    from pipeline.scoring.settings import option_names

    known = option_names(chosen["reward"])
    options = {
        name: chosen[name]
        for name in names_of(RewardOptions)
        if chosen.get(name) is not None and (name in known or name in given)
    }
    return built(ScoreSettings, chosen, options=options)
