"""gpa train-dpo: a LoRA adapter from preference pairs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobs.settings.command import PresetCommand, preset_option, recipe_option
from jobs.settings.options import dry_run_option, json_option, option, print_result, recordable, run_argument

if TYPE_CHECKING:
    from jobs.settings.presets import Preset
    from pipeline.forecast.forecast import Forecast
    from storage.run import Run
    from trainer.config import TrainConfig
    from trainer.validation import OnSample

DEFAULT_PROMPTS = 4
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Options of the command that say where a training is and what it starts from, or that watch it.
_NOT_TRAINING = frozenset(
    {"run", "preset", "pairs", "name", "model", "revision", "sample_prompts", "dry_run", "as_json"}
)


def _of_preferences(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
    """Supervised training leaves out what a preset sets for preferences; what is typed is refused later."""
    typed = ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    return 0 if ctx.params.get("objective") == "sft" and not typed else value


@click.command("train-dpo", cls=PresetCommand)
@run_argument
@preset_option
@recipe_option
@option("--pairs", type=click.Path(path_type=Path), metavar="DIR", help="Pair shards. [default: RUN/pairs]")
@option(
    "--max-pairs", type=int, metavar="N", help="Train on at most N of them, taken by chance. [default: all]"
)
@option("--name", metavar="NAME", help="The training goes to RUN/train/NAME.")
@option("--model", metavar="NAME", help="The base: world, a diffusers folder, or a Hub id.")
@option("--revision", metavar="REV", help="Revision of a Hub id.")
@option("--objective", type=click.Choice(["dpo", "ipo", "sft"]), help="sft trains on the winners alone.")
@option(
    "--winner-anchor",
    type=float,
    metavar="X",
    callback=_of_preferences,
    help="Weight of a term that keeps the winner at least as likely as it was; 0 is none.",
)
@option(
    "--winner-weight",
    type=float,
    metavar="X",
    callback=_of_preferences,
    help="Weight of supervised training on the winner beside the preference; 0 is none.",
)
@option(
    "--first-frame-weight",
    type=float,
    metavar="W",
    help="How much the first latent frame counts in an error where the model is given it; 1 as any other, 0 "
    "leaves it out.",
)
@option(
    "--cache-reference",
    type=int,
    metavar="K",
    callback=_of_preferences,
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
@option("--validate-every", type=int, metavar="N", help="Steps between looks at held-out pairs; 0 is never.")
@option(
    "--validate-split", type=click.Choice(["train", "val", "test"]), help="The split of the held-out pairs."
)
@option("--validate-pairs", type=int, metavar="K", help="How many of them, always the same.")
@option(
    "--sample-every",
    type=int,
    metavar="N",
    help="Steps between videos of base and adapter, to see motion and sharpness fall; 0 is never.",
)
@option("--sample-prompts", type=int, metavar="N", help="How many prompts of that split get such a video.")
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
    preset: Preset,
    sample_prompts: int | None,
    **chosen: Any,
) -> None:
    """Train a LoRA adapter on the pairs of RUN by Diffusion-DPO.

    The reference is the base model itself, with the adapter off. Resumable: the same command continues from
    the newest checkpoint. The adapter loads with diffusers' `pipe.load_lora_weights`. Several processes:
    `accelerate launch -m jobs.main train-dpo RUN ...`. With --dry-run, memory, arithmetic and time.
    Held-out pairs are those that gpa pair --split all writes of other splits than train.
    """
    from jobs.progress import ConsoleProgress
    from pipeline.engine.warm import let_go
    from storage.hub.provenance import pair_provenance
    from storage.run import Run
    from trainer.loop import train
    from trainer.setup import estimate

    _require_folder_name(name)
    opened = Run.open(run)
    config = train_config(
        opened, {**chosen, "pairs": pairs, "name": name, "model": model, "revision": revision}
    )
    if dry_run:
        foretold = estimate(config)
        told = _forecast(config, foretold.trainable)
        print_result(foretold.as_dict() | told.as_dict(), as_json, f"{foretold}\n{told}")
        return
    let_go()
    progress = ConsoleProgress("steps")
    # Under a launcher every process comes here; one of them speaks for all.
    first = os.environ.get("RANK", "0") == "0"
    with _locked(opened, config) if first else nullcontext():
        if first:
            recorded = {**chosen, "pairs": pairs, "model": model, "revision": revision, "preset": preset}
            opened.record(f"train-dpo {name}", recordable({**recorded, "sample_prompts": sample_prompts}))
        result = train(
            config,
            _reporter(progress, config.steps),
            reference_progress=_reference_reporter(),
            on_sample=_on_sample(opened, config, preset, (model, revision), sample_prompts, first),
            provenance=pair_provenance(opened, config.pairs_dir, config.split, config.max_pairs)
            if first
            else None,
        )
    progress.stop()
    if not first:
        return
    text = f"adapter after {result.steps} steps: {result.adapter_dir}"
    print_result(
        {"adapter": str(result.adapter_dir), "steps": result.steps, "metrics": result.metrics}, as_json, text
    )


def train_config(run: Run, chosen: dict[str, Any]) -> TrainConfig:
    """The configuration of a training in `run` from the options of the command. Raises UserError."""
    from pipeline.models import resolve_model
    from trainer.config import TrainConfig

    name, pairs = chosen["name"], chosen["pairs"]
    _require_folder_name(name)
    base = resolve_model(chosen["model"], chosen["revision"])
    return TrainConfig(
        model_dir=base.path,
        model=base.name,
        revision=base.revision,
        pairs_dir=pairs or run.shard_dir("pairs"),
        out_dir=run.path / "train" / name,
        # What a preset leaves open is as the training has it.
        **{key: value for key, value in chosen.items() if key not in _NOT_TRAINING and value is not None},
    )


def _require_folder_name(name: str) -> None:
    from storage.errors import UserError

    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name!r} must be 1-64 letters, digits, - or _: it names a folder")


def _forecast(config: TrainConfig, trainable: int) -> Forecast:
    """Steps to do, by the log of this training or of one that computes the same, on this many processes."""
    from pipeline.forecast.forecast import Footprint, Forecast, Rate
    from trainer.metrics import bytes_written, cuda_devices, step_seconds, steps_done

    return Forecast(
        unit="steps",
        wanted=config.steps,
        present=min(config.steps, steps_done(config.out_dir)),
        rate=Rate.measured(
            step_seconds(config),
            "logged steps like these",
            "no step like these yet: train a few with another --name and --steps 5, then ask again",
        ),
        footprint=Footprint(
            each=0,
            once=bytes_written(config, trainable),
            source="adapter and kept checkpoints, by their sizes",
        ),
        gpus_per_worker=cuda_devices(config),
    )


@contextmanager
def _locked(run: Run, config: TrainConfig) -> Iterator[None]:
    """One training of a name at a time, and its pairs stay what they are."""
    own = config.pairs_dir.resolve() == run.shard_dir("pairs").resolve()
    with run.lock(f"train-{config.out_dir.name}"), run.keep_pairs() if own else nullcontext():
        yield


def _on_sample(
    run: Run,
    config: TrainConfig,
    preset: Preset,
    base: tuple[str, str | None],
    prompts: int | None,
    first: bool,
) -> OnSample | None:
    """What makes and measures videos in the process that speaks for all, by the settings of the run."""
    from jobs.data.sample import sample_settings
    from pipeline.sampling.during_training import sampled_validation

    if not config.sample_every:
        return None
    if not first:
        return lambda *_: {}
    recorded = run.header().get("commands", {}).get("sample", {}).get("config")
    settings = sample_settings(preset.sections["sample"] if recorded is None else recorded)
    model, revision = base
    return sampled_validation(
        run,
        replace(settings, model=model, revision=revision),
        config.out_dir / "samples",
        split=config.validate_split,
        prompts=DEFAULT_PROMPTS if prompts is None else prompts,
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
