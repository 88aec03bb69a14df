"""gpa score: a reward for every candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.head_start import begin_scoring
from jobs.settings.options import (
    WORKER_OPTIONS,
    counts,
    dry_run_option,
    finish,
    json_option,
    option,
    print_result,
    recordable,
    run_argument,
    worker_options,
)
from jobs.settings.presets import PresetCommand, preset_option, recipe_option

if TYPE_CHECKING:
    from pipeline.scoring.score import ScorePlan, ScoreSettings
    from rewards.geometry.reconstruction import GeometryInfo
    from storage.run import Run

_REWARD_OPTIONS = (
    "photometric",
    "pairs",
    "matcher",
    "matcher_weights",
    "frames",
    "views",
    "holes",
    "hole_penalty",
    "perceptual",
    "perceptual_weight",
    "rasteriser",
)


@click.command("score", cls=PresetCommand)
@run_argument
@preset_option
@recipe_option
@option(
    "--reward",
    metavar="NAME",
    help="Which reward: combined (reprojection and matches), reprojection (the paper's), epipolar (needs no "
    "geometry), or random as a control.",
)
@option("--geometry", metavar="NAME", help="Geometry backend: world, vggt or depth-anything.")
@option(
    "--geometry-model",
    metavar="NAME",
    help="Weights of the backend: a folder or a Hub id. [default: its own]",
)
@option("--geometry-revision", metavar="REV", help="Revision of a Hub id.")
@option("--frames", type=int, metavar="N", help="Frames of a video that are used, evenly spread.")
@option(
    "--views",
    type=click.Choice(["all", "others"]),
    help="Points drawn into a frame: all, or those of other frames.",
)
@option("--holes", type=click.Choice(["black", "masked"]), help="Pixels that no point reaches.")
@option("--hole-penalty", type=float, metavar="X", help="Added per share of holes when they are masked.")
@option(
    "--perceptual",
    type=click.Choice(["none", "ssim", "lpips-vgg", "lpips-alex"]),
    help="Perceptual distance added to the MSE.",
)
@option("--perceptual-weight", type=float, metavar="X", help="Weight of the perceptual distance.")
@option(
    "--rasteriser",
    type=click.Choice(["auto", "torch", "pytorch3d"]),
    help="What draws the points: the one built in (auto, torch), or PyTorch3D, which draws the same.",
)
@option(
    "--photometric",
    type=click.Choice(["mse", "l1"]),
    help="Squared or absolute differences of colours. [default: mse for reprojection, l1 for combined]",
)
@option(
    "--pairs",
    type=click.Choice(["adjacent", "half", "first"]),
    help="Match adjacent frames (epipolar), frames half a clip apart, or all with the first. [default: half]",
)
@option(
    "--matcher",
    type=click.Choice(["sift", "lightglue-disk", "lightglue-aliked"]),
    help="For epipolar: what matches frames. [default: sift]",
)
@option(
    "--matcher-weights",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with the files of a learned matcher. [default: torch's hub cache]",
)
@option(
    "--perceptual-weights",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Backbone of LPIPS (torchvision's file). [default: from torch's hub cache]",
)
@option("--batch", type=int, metavar="N", help="Candidates of a prompt that make one task.")
@option(
    "--clips-per-forward",
    type=int,
    metavar="N",
    help="Candidates that share a pass of the geometry model: faster on a GPU, other last digits.",
)
@option("--limit", type=int, metavar="N", help="Only the candidates of N prompts.")
@worker_options
@dry_run_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Score the 3D consistency of every candidate of RUN.

    Keeps every component of a score, so that pairing can be repeated in seconds. Another reward, option or
    geometry model is another reward version beside the first; the same command again scores only what is
    missing.
    """
    if not dry_run:
        begin_scoring(run, chosen)
    from jobs.progress import ConsoleProgress
    from pipeline.scoring.score import plan_score, run_score
    from storage.run import Run

    settings = score_settings(chosen, given_options(ctx))
    opened = Run.open(run)
    if dry_run:
        from pipeline.forecast.commands import forecast_score

        plan = plan_score(opened, settings)
        told = forecast_score(opened, settings, plan)
        values = told.as_dict() | {"reward_version": plan.reward_version, "geometry": _geometry(plan)}
        print_result(values, as_json, f"{chosen['reward']} version {plan.reward_version}: {told}")
        return
    plan, summary = run_score(
        opened,
        settings,
        progress=ConsoleProgress("candidates"),
        before_work=lambda plan: _begin(opened, chosen, plan),
    )
    text = (
        f"{summary.done} candidates scored, {summary.present} were, {summary.failed} failed: "
        f"{chosen['reward']} version {plan.reward_version}"
    )
    values = {**counts(summary), "reward_version": plan.reward_version, "geometry": _geometry(plan)}
    print_result(values, as_json, text)
    finish(ctx, summary, "candidates", "rejects, or scores without a value")


def _geometry(plan: ScorePlan) -> dict[str, Any] | None:
    return None if plan.geometry is None else dataclasses.asdict(plan.geometry)


def _begin(run: Run, chosen: dict[str, Any], plan: ScorePlan) -> None:
    """Record what was asked for and say whose labels these will be, before any weights are loaded."""
    run.record("score", recordable(chosen))
    announce(plan.geometry)


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
    from pipeline.scoring.reward_settings import RewardSettings, option_names
    from pipeline.scoring.score import ScoreSettings

    known = option_names(chosen["reward"])
    options = {
        name: str(chosen[name]) if isinstance(chosen[name], Path) else chosen[name]
        for name in _REWARD_OPTIONS
        if chosen.get(name) is not None and (name in known or name in given)
    }
    reward = RewardSettings(
        reward=chosen["reward"],
        geometry=chosen["geometry"],
        geometry_model=chosen.get("geometry_model"),
        geometry_revision=chosen.get("geometry_revision"),
        perceptual_weights=chosen.get("perceptual_weights"),
        options=options,
    )
    names = ("batch", "clips_per_forward", "limit", *WORKER_OPTIONS)
    return ScoreSettings(
        reward=reward, **{name: chosen[name] for name in names if chosen.get(name) is not None}
    )
