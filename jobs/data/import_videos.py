"""gpa import: videos that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
)
from pipeline.importing.settings import ImportSettings

if TYPE_CHECKING:
    from pipeline.importing.plan import ImportPlan
    from storage.run import Run

# Nothing is denoised, so there are no steps, and nothing is led away from.
_NOT_ENCODING = ("steps", "guidance", "negative_prompt", "adapter_weight", "vae_slicing", "compile")


class _ImportCommand(PresetCommand):
    """A command whose sizes are those that its preset samples with."""

    section = "sample"
    # The other options of sampling do not concern videos that are there; a model is chosen on purpose.
    taken = (
        "height",
        "width",
        "num_frames",
        "fps",
        "max_sequence_length",
        "precision",
        "vae_tiling",
        "offload",
        "batch",
        "workers",
        "gpus_per_worker",
    )


@click.command("import", cls=_ImportCommand)
@run_argument
@click.argument("source", type=click.Path(path_type=Path), metavar="SOURCE")
@preset_option
@options_of(ImportSettings, without=_NOT_ENCODING)
@dry_run_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Bring videos that were made elsewhere into RUN as candidates.

    SOURCE is a folder of PROMPT/SEED.mp4 (prompt.txt in a folder says the prompt where its name does not, and
    first_frame.png is the first frame) or of videos with captions (NAME.mp4 and NAME.txt; videos.txt and
    prompts.txt; metadata.jsonl with file_name and text), or a manifest (JSONL, CSV or Parquet) with the
    columns prompt, seed and path, and optionally first_frame, scene_id, split and metadata.

    What is refused goes to rejects with its reason. The same command again takes in only what is missing;
    with --model it adds latents to what came without.
    """
    from jobs.progress import ConsoleProgress
    from pipeline.importing import import_videos
    from pipeline.importing.notes import notes_of
    from storage.run import Run

    settings = _import_settings(chosen)
    if dry_run:
        there = Run.open(run) if run.exists() else None
        _print_plan(there, import_videos.dry_run(there, settings), settings, as_json)
        return
    opened = Run.create_or_open(run)
    wanted: set[str] = set()

    def before_work(plan: ImportPlan) -> None:
        click.echo(plan.splits, err=True)
        opened.record("import", recordable(chosen), preset=chosen["preset"].remembered())
        wanted.update(candidate_id for task in plan.tasks for candidate_id in task.ids)

    summary = import_videos.run_import(
        opened,
        settings,
        progress=ConsoleProgress("videos"),
        before_work=before_work,
    )
    notes = notes_of(opened, wanted)
    text = f"{summary.done} videos imported, {summary.present} were there, {summary.failed} refused: {run}"
    print_result(
        counts(summary) | {"done_to_them": notes.as_dict()}, as_json, "\n  ".join([text, *notes.lines()])
    )
    finish(ctx, summary, "videos", "rejects")


def _import_settings(chosen: dict[str, Any]) -> ImportSettings:
    """The settings of an import from the options of the command."""
    encoding = {name: value for name, value in chosen.items() if name not in _NOT_ENCODING}
    return built(ImportSettings, encoding, source=chosen["source"], steps=1, guidance=1.0)


def _print_plan(run: Run | None, plan: ImportPlan, settings: ImportSettings, as_json: bool) -> None:
    from pipeline.importing.import_videos import encoding_of, long_prompts_of
    from pipeline.importing.plan import forecast_import

    told = forecast_import(
        run,
        plan,
        encoding_of(settings),
        link=settings.link,
        workers=settings.workers,
        gpus=settings.gpus_per_worker,
    )
    rules: dict[str, int] = {}
    for one in plan.rejects:
        rules[one.rule] = rules.get(one.rule, 0) + 1
    long = long_prompts_of(plan, encoding_of(settings))
    values = {"prompts": plan.prompts, "refused": len(plan.rejects), "refused_by_rule": rules}
    values |= {"long_prompts": [vars(one) for one in long]}
    why = "".join(f"\n  {one.rule}: {one.detail}" for one in plan.rejects)
    click.echo(plan.splits, err=True)
    text = f"{plan.prompts:,} prompts: {told}\n{len(plan.rejects):,} refused{why}{listed(long)}"
    print_result(told.as_dict() | values, as_json, text)
