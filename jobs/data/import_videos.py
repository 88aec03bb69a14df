"""gpa import: videos that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.settings.command import PresetCommand, preset_option
from jobs.settings.options import (
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

if TYPE_CHECKING:
    from pipeline.importing.import_videos import ImportSettings
    from pipeline.importing.plan import ImportPlan
    from storage.run import Run

# A large clip of a video model is 161 frames of 720x1280. A video is scored from memory, uncompressed.
MAX_PIXELS = 1088 * 1920
MAX_FRAMES = 512
MAX_SECONDS = 60.0


class ImportCommand(PresetCommand):
    """A command whose sizes are those that its preset samples with."""

    section = "sample"
    # The other options of sampling do not concern videos that are there; a model is chosen on purpose.
    taken = (
        "height",
        "width",
        "num_frames",
        "max_sequence_length",
        "precision",
        "vae_tiling",
        "offload",
        "batch",
        "workers",
        "gpus_per_worker",
    )


@click.command("import", cls=ImportCommand)
@run_argument
@click.argument("source", type=click.Path(path_type=Path), metavar="SOURCE")
@preset_option
@option("--model", metavar="NAME", help="Encode the videos for training this model; without it only scores.")
@option("--revision", metavar="REV", help="Revision of a Hub id.")
@option("--link/--copy", default=False, help="Hard links in the place of copies: no bytes are written.")
@option(
    "--fit",
    type=click.Choice(["exact", "crop", "resize"]),
    default="exact",
    help="Videos of another size than the model's: refuse them, cut them, or change their aspect.",
)
@option("--height", type=int, metavar="PIXELS", help="With --model: the size it is trained at.")
@option("--width", type=int, metavar="PIXELS")
@option("--num-frames", type=int, metavar="N", help="With --model: frames of a video.")
@option("--max-sequence-length", type=int, metavar="N", help="Text tokens.")
@option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Type the model computes in.")
@option("--vae-tiling/--no-vae-tiling", help="Encode large videos in overlapping tiles: much less memory.")
@option(
    "--offload",
    type=click.Choice(["none", "model", "sequential"]),
    help="Keep weights in CPU memory until used. Needs a GPU.",
)
@option("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="Largest frame, height times width.")
@option("--max-frames", type=int, default=MAX_FRAMES, metavar="N", help="Longest video, in frames.")
@option("--max-seconds", type=float, default=MAX_SECONDS, metavar="X", help="Longest video, in seconds.")
@option(
    "--allow-outside/--no-allow-outside",
    default=False,
    help="Follow paths and links that lead out of SOURCE.",
)
@option("--batch", type=int, metavar="N", help="Videos of a prompt that make one task.")
@worker_options
@dry_run_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Bring videos that were made elsewhere into RUN as candidates.

    SOURCE is a folder of PROMPT/SEED.mp4 (prompt.txt in a folder says the prompt where its name does not, and
    first_frame.png is the first frame), or a manifest (JSONL, CSV or Parquet) with the columns prompt, seed
    and path, and optionally first_frame, scene_id, split and metadata.

    What is refused goes to rejects with its reason. The same command again takes in only what is missing;
    with --model it adds latents to what came without.
    """
    from jobs.progress import ConsoleProgress
    from pipeline.importing import import_videos
    from storage.run import Run

    settings = import_settings(chosen)
    if dry_run:
        there = Run.open(run) if run.exists() else None
        _print_plan(there, import_videos.dry_run(there, settings), settings, as_json)
        return
    opened = Run.create_or_open(run)
    summary = import_videos.run_import(
        opened,
        settings,
        progress=ConsoleProgress("videos"),
        before_work=lambda _: opened.record(
            "import", recordable(chosen), preset=chosen["preset"].remembered()
        ),
    )
    text = f"{summary.done} videos imported, {summary.present} were there, {summary.failed} refused: {run}"
    print_result(counts(summary), as_json, text)
    finish(ctx, summary, "videos", "rejects")


def import_settings(chosen: dict[str, Any]) -> ImportSettings:
    """The settings of an import from the options of the command."""
    from pipeline.importing.import_videos import ImportSettings
    from pipeline.sampling.sampler import Execution, SamplerSettings
    from storage.errors import UserError
    from storage.media.external_video import VideoLimits

    rest = {name: value for name, value in chosen.items() if name != "preset"}
    limits = VideoLimits(**{name: rest.pop(name) for name in VideoLimits.__dataclass_fields__})
    of_sampler = {name: rest.pop(name) for name in SamplerSettings.__dataclass_fields__ if name in rest}
    try:
        # Nothing is denoised, so there are no steps, and nothing is led away from.
        sampler = SamplerSettings(**of_sampler, steps=1, guidance=1.0, fps=1)
    except ValueError as error:
        raise UserError(f"{error}: change the option") from error
    execution = Execution(offload=rest.pop("offload"))
    return ImportSettings(limits=limits, sampler=sampler, execution=execution, **rest)


def _print_plan(run: Run | None, plan: ImportPlan, settings: ImportSettings, as_json: bool) -> None:
    from pipeline.importing.plan import forecast_import

    told = forecast_import(
        run,
        plan,
        settings.encoding(),
        link=settings.link,
        workers=settings.workers,
        gpus=settings.gpus_per_worker,
    )
    rules: dict[str, int] = {}
    for one in plan.rejects:
        rules[one.rule] = rules.get(one.rule, 0) + 1
    values = {"prompts": plan.prompts, "refused": len(plan.rejects), "refused_by_rule": rules}
    why = "".join(f"\n  {one.rule}: {one.detail}" for one in plan.rejects)
    text = f"{plan.prompts:,} prompts: {told}\n{len(plan.rejects):,} refused{why}"
    print_result(told.as_dict() | values, as_json, text)
