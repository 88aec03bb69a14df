"""gpa train-dpo: a LoRA adapter from preference pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobs.settings.command import PresetCommand, preset_option, recipe_option
from jobs.settings.from_dataclass import built, options_of
from jobs.settings.options import (
    dry_run_option,
    json_option,
    print_result,
    recordable,
    run_argument,
    taken_adapter,
)
from storage.errors import FieldError
from trainer.config import OF_PREFERENCES, TrainConfig

if TYPE_CHECKING:
    from jobs.settings.presets import Preset
    from pipeline.forecast.forecast import Forecast
    from storage.run import Run
    from trainer.saving.saved import TrainResult
    from trainer.watching.validation import OnSample

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a training lies, what it starts from, and the videos that watch it."""

    pairs: Path | None = field(
        default=None,
        metadata={
            "help": "Pair shards.",
            "default": "RUN/pairs",
            "metavar": "DIR",
            "group": "Which pairs",
            "common": True,
        },
    )
    name: str = field(
        default="dpo",
        metadata={
            "help": "The training goes to RUN/train/NAME.",
            "metavar": "NAME",
            "group": "Output",
            "common": True,
        },
    )
    model: str = field(
        default="world",
        metadata={
            "help": "The base: world, a diffusers folder, or a Hub id.",
            "metavar": "NAME",
            "group": "Model",
            "common": True,
        },
    )
    revision: str | None = field(
        default=None, metadata={"help": "Revision of a Hub id.", "metavar": "REV", "group": "Model"}
    )
    push_to_hub: str | None = field(
        default=None,
        metadata={
            "help": "Upload adapter and card to this repository of the Hugging Face Hub.",
            "default": "none",
            "metavar": "OWNER/NAME",
            "group": "Output",
        },
    )
    public: bool = field(
        default=False,
        metadata={"help": "A repository that is made for it can be seen by all.", "group": "Output"},
    )
    sample_prompts: int = field(
        default=4,
        metadata={
            "help": "How many prompts of that split get such a video.",
            "metavar": "N",
            "group": "Validation",
        },
    )

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise FieldError(
                "name", "1-64 letters, digits, - or _", self.name, "it names a folder, choose another"
            )


def _of_preferences(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
    """Supervised training leaves out what a preset sets for preferences; what is typed is refused later."""
    typed = ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    return option.default if ctx.params.get("objective") == "sft" and not typed else value


@click.command("train-dpo", cls=PresetCommand)
@run_argument
@preset_option
@recipe_option
@options_of(Where)
@options_of(TrainConfig, change={name: {"callback": _of_preferences} for name in OF_PREFERENCES})
@click.option("--finish", is_flag=True, help="Make no more steps: the newest checkpoint is the adapter.")
@dry_run_option
@json_option
def command(
    run: Path,
    as_json: bool,
    dry_run: bool,
    finish: bool,
    preset: Preset,
    **chosen: Any,
) -> None:
    """Train a LoRA adapter on the pairs of RUN by Diffusion-DPO.

    The reference is the base model itself, with the adapter off. Resumable: the same command continues from
    the newest checkpoint, with more --steps beyond its end. The adapter, and every checkpoint, loads with
    diffusers' `pipe.load_lora_weights`. Several processes: `accelerate launch $(which gpa) train-dpo RUN`.
    With --dry-run, memory, arithmetic and time. Held-out pairs are those that gpa pair --split all writes of
    other splits than train.
    """
    from pipeline.engine.warm import release_idle
    from storage.run import Run
    from trainer.saving.saved import finished, is_first

    where = built(Where, chosen)
    opened = Run.open(run)
    taken_adapter(chosen["from_adapter"])
    config = train_config(opened, chosen)
    if dry_run:
        from trainer.setup import estimate

        foretold = estimate(config)
        told = _forecast(config, foretold.trainable)
        print_result(foretold.as_dict() | told.as_dict(), as_json, f"{foretold}\n{told}")
        return
    # Under a launcher every process comes here; one of them speaks for all.
    first = is_first()
    if where.push_to_hub is not None and first:
        from storage.hub.upload import require_upload

        require_upload(where.push_to_hub)
    release_idle()
    with _locked(opened, config) if first else nullcontext():
        if first:
            recorded = recordable({**chosen, "preset": preset})
            del recorded["name"]
            opened.record(f"train-dpo {where.name}", recorded)
        result = finished(config) or _train(opened, config, preset, where, first=first, finish=finish)
    if first:
        _end(result, config, where, as_json)


def _end(result: TrainResult, config: TrainConfig, where: Where, as_json: bool) -> None:
    """Say what came of it, and upload it where that was asked."""
    from jobs.training.console import end_of, learned

    values = {
        "adapter": str(result.adapter_dir),
        "steps": result.steps,
        "metrics": result.metrics,
        "ended": vars(result.ending),
    }
    print_result(values, as_json, "\n".join(filter(None, [learned(result, config), end_of(result)])))
    if where.push_to_hub is not None:
        from storage.hub.upload import upload

        click.echo(upload(result.adapter_dir, where.push_to_hub, private=not where.public), err=as_json)


def _train(
    run: Run, config: TrainConfig, preset: Preset, where: Where, *, first: bool, finish: bool
) -> TrainResult:
    from jobs.progress import TrainingProgress
    from jobs.training.console import reference_reporter, say_beginning, step_reporter
    from pipeline.telling import tell, tell_import
    from storage.hub.provenance import pair_provenance

    tell_import("torch", "diffusers", "peft")
    from trainer.train import train

    tell("loading weights")

    provenance = pair_provenance(run, config.pairs_dir, config.split, config.max_pairs) if first else None
    if finish:
        return train(config, provenance=provenance, finish=True)
    with TrainingProgress() as progress:
        return train(
            config,
            step_reporter(progress, config.steps),
            begins=say_beginning(config),
            reference_progress=reference_reporter(),
            on_sample=_on_sample(run, config, preset, where, first),
            provenance=provenance,
        )


def train_config(run: Run, chosen: dict[str, Any]) -> TrainConfig:
    """The configuration of a training in `run` from the options of the command. Raises UserError."""
    from pipeline.models import resolve_model

    where = built(Where, chosen)
    base = resolve_model(where.model, where.revision)
    return built(
        TrainConfig,
        chosen,
        model_dir=base.path,
        model=base.name,
        revision=base.revision,
        pairs_dir=where.pairs or run.shard_dir("pairs"),
        out_dir=run.path / "train" / where.name,
    )


def _forecast(config: TrainConfig, trainable: int) -> Forecast:
    """Steps to do, by the log of this training or of one that computes the same, on this many processes."""
    from pipeline.forecast.forecast import Footprint, Forecast, Rate
    from trainer.saving.metrics import bytes_written, cuda_devices, step_seconds, steps_done

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
    where: Where,
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
    return sampled_validation(
        run,
        replace(settings, model=where.model, revision=where.revision),
        config.out_dir / "samples",
        split=config.validate_split,
        prompts=where.sample_prompts,
    )
