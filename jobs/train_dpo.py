"""gpa train-dpo: a LoRA adapter from preference pairs."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from jobs.options import dry_run_option, json_option, option, print_result, recordable, run_argument
from jobs.presets import PresetCommand, preset_option

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@click.command("train-dpo", cls=PresetCommand)
@run_argument
@preset_option
@option("--pairs", type=click.Path(path_type=Path), metavar="DIR", help="Pair shards. [default: RUN/pairs]")
@option("--name", metavar="NAME", help="The training goes to RUN/train/NAME.")
@option("--model", metavar="NAME", help="The base: world, a diffusers folder, or a Hub id.")
@option("--revision", metavar="REV", help="Revision of a Hub id.")
@option("--objective", type=click.Choice(["dpo", "ipo", "sft"]), help="sft trains on the winners alone.")
@option(
    "--winner-anchor",
    type=float,
    metavar="X",
    help="Weight of a term that keeps the winner at least as likely as it was; 0 is none.",
)
@option(
    "--cache-reference",
    type=int,
    metavar="K",
    help="Compute the reference's errors once, for K fixed draws per pair; 0 draws anew every step.",
)
@option(
    "--beta",
    type=float,
    metavar="X",
    help="Strength of the preference (of mean squared errors, no one half).",
)
@option("--rank", type=int, metavar="N", help="LoRA rank.")
@option("--alpha", type=int, metavar="N", help="LoRA alpha.")
@option("--lr", type=float, metavar="X", help="Peak learning rate.")
@option("--schedule", type=click.Choice(["cosine", "constant"]), help="Learning rate after the warm-up.")
@option("--warmup", type=int, metavar="N", help="Warm-up steps.")
@option("--steps", type=int, metavar="N", help="Optimiser steps.")
@option("--batch-size", type=int, metavar="N", help="Pairs per process and micro-batch.")
@option("--grad-accum", type=int, metavar="N", help="Micro-batches per step.")
@option("--precision", type=click.Choice(["fp32", "bf16"]), help="Type of the base; the adapter stays fp32.")
@option(
    "--gradient-checkpointing",
    type=click.Choice(["auto", "on", "off"]),
    help="Less memory for more time; auto goes by the memory that is free.",
)
@option(
    "--forward",
    type=click.Choice(["auto", "together", "apart"]),
    help="Winner and loser in one forward pass, or one after the other: less memory, one more pass.",
)
@option("--shard/--no-shard", help="Spread the weights over the processes of a launcher (FSDP2).")
@option("--compile/--no-compile", help="torch.compile; the first step takes minutes.")
@option("--optimizer", type=click.Choice(["adamw", "adamw8bit"]), help="adamw8bit needs bitsandbytes.")
@option("--checkpoint-every", type=int, metavar="N", help="Steps between checkpoints.")
@option("--threads", type=int, metavar="N", help="CPU threads; the last bits of the result depend on it.")
@option("--seed", type=int, metavar="N", help="Seed of initialisation, order, noise and timesteps.")
@dry_run_option
@json_option
def command(
    run: Path,
    as_json: bool,
    dry_run: bool,
    pairs: Path | None,
    name: str,
    model: str,
    revision: str | None,
    **chosen: Any,
) -> None:
    """Train a LoRA adapter on the pairs of RUN by Diffusion-DPO.

    The reference is the base model itself, with the adapter off. Resumable: the same command continues from
    the newest checkpoint. The adapter loads with diffusers' `pipe.load_lora_weights`. Several processes:
    `accelerate launch -m jobs.main train-dpo RUN ...`. With --dry-run, memory and arithmetic of a step.
    """
    from jobs.progress import ConsoleProgress
    from pipeline.models import resolve_model
    from storage.errors import UserError
    from storage.run import Run
    from trainer.config import TrainConfig
    from trainer.estimate import estimate
    from trainer.loop import train

    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name!r} must be 1-64 letters, digits, - or _: it names a folder")
    opened = Run.open(run)
    base = resolve_model(model, revision)
    config = TrainConfig(
        model_dir=base.path,
        model=base.name,
        revision=base.revision,
        pairs_dir=pairs or opened.shard_dir("pairs"),
        out_dir=opened.path / "train" / name,
        **{key: value for key, value in chosen.items() if key != "preset"},
    )
    if dry_run:
        foretold = estimate(config)
        print_result(foretold.as_dict(), as_json, str(foretold))
        return
    progress = ConsoleProgress("steps")
    # Under a launcher every process comes here; one of them speaks for all.
    first = os.environ.get("RANK", "0") == "0"
    with opened.lock(f"train-{name}") if first else nullcontext():
        if first:
            recorded = {**chosen, "pairs": pairs, "model": model, "revision": revision}
            opened.record(f"train-dpo {name}", recordable(recorded))
        result = train(config, _reporter(progress, config.steps), reference_progress=_reference_reporter())
    progress.stop()
    if not first:
        return
    text = f"adapter after {result.steps} steps: {result.adapter_dir}"
    print_result(
        {"adapter": str(result.adapter_dir), "steps": result.steps, "metrics": result.metrics}, as_json, text
    )


def _reporter(progress: Any, steps: int) -> Any:
    """Feeds the bar; what was done before an interruption is known only when the first step is reported."""
    last: list[int] = []

    def report(step: int, _metrics: dict[str, float]) -> None:
        if not last:
            progress.start("train-dpo", steps, step - 1)
            last.append(step - 1)
        progress.advance(step - last[0], 0)
        last[0] = step

    return report


def _reference_reporter() -> Any:
    from jobs.progress import ConsoleProgress

    progress = ConsoleProgress("draws")
    last: list[int] = []

    def report(done: int, count: int) -> None:
        if not last:
            progress.start("reference", count, 0)
        progress.advance(done - (last.pop() if last else 0), 0)
        last.append(done)
        if done == count:
            progress.stop()

    return report
