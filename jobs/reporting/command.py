"""gpa report: a page to look at a run, and to judge its pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.settings.command import Command
from jobs.settings.options import dry_run_option, json_option, option, print_result, run_argument

if TYPE_CHECKING:
    from jobs.reporting.build import Report
    from pipeline.scoring.settings import RewardSettings
    from storage.run import Run

_MIB = 2**20


@click.command("report", cls=Command)
@run_argument
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where it goes. [default: RUN/report]"
)
@option("--pairs", type=int, default=500, metavar="N", help="Most pairs that are shown.")
@option(
    "--choose",
    "choice",
    type=click.Choice(["spread", "widest", "narrowest", "random"]),
    default="spread",
    help="Which, when there are more: spread over the ranks of the gap, its ends, or a random sample.",
)
@option(
    "--reconstructions",
    type=int,
    default=12,
    metavar="N",
    help="Pairs with point clouds, reprojections and error maps, which are computed again for them.",
)
@option("--eval-prompts", type=int, default=8, metavar="N", help="Prompts of an evaluation with clips.")
@option("--memory", default="4GB", metavar="SIZE", help="Memory for the queries; more goes to disk.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads for them. [default: all]")
@dry_run_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: Path,
    memory: str,
    threads: int | None,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write a page about RUN that any browser opens as a file, without a server and without the network.

    Funnel, distributions, pairs with winner and loser in step, training curves and evaluations. A person
    marks pairs there to keep, drop or swap, and exports a file for gpa pair --decisions. Videos are copied in
    a form that browsers play; those that already play are linked when the page lies in the run. Nothing of
    the run but its report is written; the same command again makes only what is missing.
    """
    from jobs.progress import ConsoleProgress
    from jobs.reporting.build import ReportSettings, build_report, plan_report
    from storage.run import Run
    from storage.sql.views import Limits

    opened = Run.open(run)
    settings = ReportSettings(**chosen)
    limits = Limits(memory=memory, threads=threads)
    if dry_run:
        plan = plan_report(opened, settings, limits)
        text = (
            f"{plan['pairs']:,} of {plan['of_pairs']:,} pairs with {plan['videos']:,} videos, "
            f"{plan['videos_to_look_at']:,} of them without a copy; {plan['reconstructions']} clips to "
            f"reconstruct\nnot written (dry run), would be {plan['page']}"
        )
        print_result(plan, as_json, text)
        return
    made = build_report(opened, settings, reward_of=reward_of, progress=ConsoleProgress, limits=limits)
    values = dataclasses.asdict(made) | {"page": str(made.page)}
    print_result(values, as_json, _text(made))
    if made.missing:
        click.echo(f"{made.missing} videos are missing, the last: {made.missing_reason}", err=True)
        ctx.exit(3)


def _text(made: Report) -> str:
    videos = f"{made.copied:,} videos copied for browsers, {made.linked:,} linked"
    rest = (made.bytes - made.video_bytes) / _MIB
    lines = [
        f"{made.pairs:,} of {made.of_pairs:,} pairs, {made.reconstructed} clips reconstructed; {videos}; "
        f"{rest:.1f} MiB and {made.video_bytes / _MIB:.1f} MiB of videos",
        *made.notes,
        str(made.page),
    ]
    return "\n".join(lines)


def reward_of(run: Run, reward: str, version: str) -> RewardSettings:
    """The settings by which `gpa score` made a reward version, as run.yaml recorded them.

    Raises UserError when they are not those of the last gpa score.
    """
    from jobs.data.score import score_settings
    from storage.errors import UserError

    entry = run.header()["commands"].get("score") or {}
    config = {"geometry": "world"} | dict(entry.get("config") or {})
    settings = score_settings(config | {"reward": reward}).reward
    found, _ = settings.describe()
    if found != version:
        raise UserError(
            f"the last gpa score, by run.yaml, had other settings (version {found}); run gpa score with "
            f"those of {version}, which scores nothing twice, and make the report again"
        )
    return settings
