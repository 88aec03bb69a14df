"""gpa sample: candidate videos for every prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.head_start import begin_sampling
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
    from pipeline.sampling.sample import SampleSettings


class SampleCommand(PresetCommand):
    """A command that makes candidates."""

    samples = True


@click.command("sample", cls=SampleCommand)
@run_argument
@preset_option
@option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="JSONL prompts; without it, the embedded world's.",
)
@option("--split", metavar="NAME", help="Split of the world's prompts: train, val or test.")
@option("--num-prompts", type=int, metavar="N", help="How many of the world's prompts.")
@option("--model", metavar="NAME", help="world, world-boxes, a diffusers folder, or a Hub id.")
@option("--revision", metavar="REV", help="Revision of a Hub id.")
@option(
    "--adapter", type=click.Path(path_type=Path), metavar="DIR", help="LoRA folder written by gpa train-dpo."
)
@option("--adapter-weight", type=float, metavar="X", help="Strength of the adapter: 0 is the base model.")
@option("--candidates", type=int, metavar="N", help="Candidates per prompt.")
@option("--batch", type=int, metavar="N", help="Candidates of a prompt sampled together.")
@option("--seed", type=int, metavar="N", help="Seed of the run; every candidate's seed follows from it.")
@option("--steps", type=int, metavar="N", help="Denoising steps.")
@option("--guidance", type=float, metavar="X", help="Classifier-free guidance; 1 is none.")
@option("--negative-prompt", metavar="TEXT", help="What guidance leads away from; needs guidance above 1.")
@option("--height", type=int, metavar="PIXELS")
@option("--width", type=int, metavar="PIXELS")
@option("--num-frames", type=int, metavar="N", help="Frames of a video.")
@option("--fps", type=int, metavar="N", help="Frames a second of the saved video.")
@option("--max-sequence-length", type=int, metavar="N", help="Text tokens.")
@option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Type the model computes in.")
@option(
    "--vae-tiling/--no-vae-tiling",
    help="Decode large videos in overlapping tiles: much less memory, seams are blended.",
)
@option(
    "--vae-slicing/--no-vae-slicing",
    help="Have the VAE take a batch one by one; candidates are decoded one by one in any case.",
)
@option(
    "--offload",
    type=click.Choice(["none", "model", "sequential"]),
    help="Keep weights in CPU memory until used: whole networks (model), or layers (slow, least memory). "
    "Needs a GPU.",
)
@option(
    "--compile/--no-compile",
    help="torch.compile of the transformer: the first candidates of a worker take minutes.",
)
@option("--limit", type=int, metavar="N", help="Only the first N prompts.")
@worker_options
@dry_run_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Sample candidate videos for every prompt into RUN.

    Keeps the video, the final latents and the encoded condition of each candidate. The same command again
    samples only what is missing.
    """
    if not dry_run:
        begin_sampling(run, chosen)
    from jobs.progress import ConsoleProgress
    from pipeline.sampling.sample import plan_sample, run_sample
    from storage.run import Run

    settings = sample_settings(chosen)
    if dry_run:
        from pipeline.forecast.commands import forecast_sample

        there = Run.open(run) if run.exists() and any(run.iterdir()) else None
        plan = plan_sample(settings, there, write=False)
        told = forecast_sample(there, settings, plan)
        print_result(told.as_dict() | {"prompts": plan.prompts}, as_json, f"{plan.prompts:,} prompts: {told}")
        return
    opened = Run.create_or_open(run)
    summary = run_sample(
        opened,
        settings,
        progress=ConsoleProgress("candidates"),
        before_work=lambda: opened.record("sample", recordable(chosen), preset=chosen["preset"].remembered()),
    )
    text = f"{summary.done} candidates sampled, {summary.present} were there, {summary.failed} failed: {run}"
    print_result(counts(summary), as_json, text)
    finish(ctx, summary, "candidates", "rejects, or candidates with status failed")


def sample_settings(chosen: dict[str, Any]) -> SampleSettings:
    """The settings of a sampling from the options of the command, or from a section of a preset."""
    from pipeline.sampling.sample import SampleSettings
    from pipeline.sampling.sampler import Execution, SamplerSettings
    from storage.errors import UserError

    rest = {name: value for name, value in chosen.items() if name != "preset"}
    # What a run recorded before an option existed is at its default.
    of_execution = {name: rest.pop(name) for name in Execution.__dataclass_fields__ if name in rest}
    of_sampler = {name: rest.pop(name) for name in SamplerSettings.__dataclass_fields__ if name in rest}
    execution = Execution(**of_execution)
    try:
        sampler = SamplerSettings(**of_sampler)
    except ValueError as error:
        raise UserError(f"{error}: change the option") from error
    return SampleSettings(sampler=sampler, execution=execution, **rest)
