"""gpa sample: candidate videos for every prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.head_start import begin_sampling
from jobs.settings.command import PresetCommand, preset_option
from jobs.settings.from_dataclass import built, options_of
from jobs.settings.options import (
    counts,
    dry_run_option,
    finish,
    json_option,
    listed,
    print_result,
    recordable,
    run_argument,
    taken_adapter,
)
from pipeline.sampling.settings import SampleSettings

if TYPE_CHECKING:
    from pipeline.sampling.sample import SamplePlan


class _SampleCommand(PresetCommand):
    """A command that makes candidates."""

    samples = True


@click.command("sample", cls=_SampleCommand)
@run_argument
@preset_option
@options_of(SampleSettings)
@dry_run_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Sample candidate videos for every prompt into RUN.

    Keeps the video, the final latents and the encoded condition of each candidate. The same command again
    samples only what is missing.
    """
    settings = sample_settings(chosen)
    if not dry_run:
        begin_sampling(run, chosen)
    from jobs.progress import ConsoleProgress
    from pipeline.sampling.sample import plan_sample, run_sample
    from storage.run import Run

    if dry_run:
        from pipeline.forecast.commands import forecast_sample

        there = Run.open(run) if run.exists() and any(run.iterdir()) else None
        plan = plan_sample(settings, there, write=False)
        told = forecast_sample(there, settings, plan)
        long = plan.long_prompts(settings)
        say_splits(plan)
        values = {"prompts": plan.prompts, "long_prompts": [vars(one) for one in long]}
        print_result(told.as_dict() | values, as_json, f"{plan.prompts:,} prompts: {told}{listed(long)}")
        return
    opened = Run.create_or_open(run)

    def before_work(plan: SamplePlan) -> None:
        say_splits(plan)
        opened.record("sample", recordable(chosen), preset=chosen["preset"].remembered())

    summary = run_sample(
        opened,
        settings,
        progress=ConsoleProgress("candidates"),
        before_work=before_work,
    )
    text = f"{summary.done} candidates sampled, {summary.present} were there, {summary.failed} failed: {run}"
    print_result(counts(summary), as_json, text)
    finish(ctx, summary, "candidates", "rejects, or candidates with status failed")


def say_splits(plan: SamplePlan) -> None:
    """Say how prompts of one's own fall into splits: pair and train-dpo take those of train alone."""
    if plan.splits:
        click.echo(plan.splits, err=True)


def sample_settings(chosen: dict[str, Any]) -> SampleSettings:
    """The settings of a sampling from the options of the command, or from a section of a preset."""
    return built(SampleSettings, {**chosen, "adapter": taken_adapter(chosen.get("adapter"))})
