"""gpa evaluate: a base model against adapters on held-out prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobs.settings.command import PresetCommand, preset_option
from jobs.settings.from_dataclass import names_of, options_of
from jobs.settings.options import (
    dry_run_option,
    json_option,
    print_result,
    recordable,
    run_argument,
    taken_adapter,
)
from pipeline.engine.worker_settings import WorkerSettings
from pipeline.sampling.settings import SampleSettings
from storage.errors import UserError
from storage.tables.ids import SPLITS

if TYPE_CHECKING:
    from rich.table import Table

    from jobs.settings.presets import Preset
    from pipeline.evaluation.adapters import NamedAdapter
    from pipeline.evaluation.evaluate import EvaluateSettings
    from pipeline.evaluation.judges.judge import JudgeChoice
    from pipeline.evaluation.tables import Evaluation
    from storage.run import Run


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """What is compared, by which judges, on how many clips, and where the evaluation goes."""

    adapters: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "LoRA folder, a checkpoint or RUN/train/NAME, and what multiplies it; may be given "
            "several times. NAME may be GROUP/TRAINING.",
            "default": "that of the training dpo",
            "flag": "--adapter",
            "metavar": "[NAME=]DIR[@WEIGHT]",
            "group": "Model",
            "common": True,
        },
    )
    judges: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "The geometry backend that judges, none, or a judge of another kind beside the preset's "
            "geometry; may be given several times.",
            "flag": "--judge",
            "metavar": "NAME[=MODEL]",
            "group": "Judges",
            "common": True,
        },
    )
    min_motion: float = field(
        default=0.0,
        metadata={
            "help": "A second table leaves out clips whose camera moves less, by the judge, on either side.",
            "metavar": "X",
            "group": "Judges",
        },
    )
    seeds: int = field(
        default=2,
        metadata={
            "help": "Clips per prompt and model; the same seeds for every model.",
            "metavar": "N",
            "group": "Which candidates",
            "common": True,
        },
    )
    also_trained: bool = field(
        default=False,
        metadata={
            "help": "Evaluate on prompts too that an adapter was trained on, and say so in all that is "
            "written. NAME is then seen, unless given.",
            "group": "Which candidates",
        },
    )
    name: str = field(
        default="heldout",
        metadata={
            "help": "The evaluation goes to RUN/eval/NAME.",
            "metavar": "NAME",
            "group": "Output",
            "common": True,
        },
    )


# Of the options of sampling those that an evaluation has of its own; the others are the preset's.
_OF_SAMPLING = {"model", "revision", "prompts", "split", "num_prompts", "seed", *names_of(WorkerSettings)}


@click.command("evaluate", cls=PresetCommand)
@run_argument
@preset_option
@options_of(_Compared)
@options_of(
    SampleSettings,
    without=set(names_of(SampleSettings)) - _OF_SAMPLING,
    change={
        "model": {"default": None, "help": "The base.", "words": "that of the preset's sample"},
        "seed": {"help": "Seed that the clips' seeds follow from."},
        "prompts": {"help": "JSONL prompts, of which those of the split are taken; without it, the world's."},
        "split": {
            "type": click.Choice([*SPLITS, "all"]),
            "help": "Split of the prompts; of your own also all.",
        },
    },
)
@dry_run_option
@json_option
def command(run: Path, preset: Preset, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Compare the base model with adapters on held-out prompts, with the same seeds.

    Of the prompts of the split those are left out whose scene, caption or first frame an adapter was trained
    on, as the adapter says, or else the pairs of the run that it lies in.

    The judge is to be a geometry model that made no reward; the table says when it is not. The fault and
    the PSNR to the truth need prompts of the embedded world. Sampling and scoring follow the sample and
    score sections of the preset.

    The name of an adapter ends at the first '=' and its weight begins at the last '@'; a folder that exists
    under the whole text is taken as it is. The same folder at several weights is several models. Adapters
    named GROUP/TRAINING, such as ours/0 and ours/1, have a table each and one of the group, over trainings.
    """
    from jobs.head_start import begin_sampling
    from jobs.main import PARTIAL

    source = click.get_current_context().get_parameter_source("name")
    if chosen["also_trained"] and source is not ParameterSource.COMMANDLINE:
        # What was held out stays what it says it is.
        chosen["name"] = "seen"
    if run.is_dir() and not dry_run:
        model = chosen["model"] or preset.model
        begin_sampling(run / "eval" / chosen["name"], chosen | {"model": model})
    from jobs.progress import ConsoleProgress
    from pipeline.evaluation.evaluate import run_evaluate
    from pipeline.evaluation.tables import as_json as plain
    from storage.run import Run

    opened = Run.open(run)
    folders = chosen.pop("adapters") or (str(opened.path / "train" / "dpo" / "adapter"),)
    settings = evaluate_settings(preset, folders, chosen)
    settings = replace(settings, adapters=tuple(_taken(one) for one in settings.adapters))
    if dry_run:
        _foretell(opened, settings, as_json)
        return
    asked = {**chosen, "preset": preset, "adapters": list(folders), "judges": list(chosen["judges"])}
    opened.record(f"evaluate {settings.name}", recordable(asked))
    result = run_evaluate(opened, settings, progress=ConsoleProgress)
    if as_json:
        click.echo(json.dumps(plain(result) | {"directory": str(result.directory)}, sort_keys=True))
    else:
        _print_evaluation(result)
    if result.failed:
        click.echo(f"{result.failed} clips failed (candidates with a reason, or rejects)", err=True)
        click.get_current_context().exit(PARTIAL)


def _foretell(run: Run, settings: EvaluateSettings, as_json: bool) -> None:
    from pipeline.forecast.commands import forecast_evaluate
    from pipeline.forecast.forecast import total

    parts = dict(zip(("sample", "score", "judge"), forecast_evaluate(run, settings), strict=True))
    values = {name: part.as_dict() for name, part in parts.items()} | total(tuple(parts.values()))
    print_result(values, as_json, "\n".join(f"{name}: {part}" for name, part in parts.items()))


def evaluate_settings(preset: Preset, adapters: tuple[str, ...], chosen: dict[str, Any]) -> EvaluateSettings:
    """Settings from the options of the command and the preset's sections for sample and score."""
    from jobs.data.sample import sample_settings
    from jobs.data.score import score_settings
    from pipeline.evaluation.adapters import NamedAdapter
    from pipeline.evaluation.evaluate import EvaluateSettings
    from storage.errors import FieldError

    if chosen["seeds"] < 1:  # else it is told of the field that it becomes
        raise FieldError("seeds", "at least 1", chosen["seeds"])
    sections = preset.sections
    shared = {name: chosen[name] for name in names_of(WorkerSettings) if name in chosen}
    own = {name: chosen[name] for name in _OF_SAMPLING if name in chosen}
    sample = sections["sample"] | own | {"candidates": chosen["seeds"], "batch": chosen["seeds"]}
    sample["model"] = chosen["model"] or sections["sample"]["model"]
    any_split = sample["split"] == "all"
    # Where a run has placed its scenes they stay; a new file's fall by hash, or as it says.
    sample |= {"split_by": "scene"} | ({"split": "test"} if any_split else {})
    return EvaluateSettings(
        sample=sample_settings(sample),
        score=score_settings(sections["score"] | shared),
        adapters=tuple(NamedAdapter.parse(adapter) for adapter in adapters),
        any_split=any_split,
        also_trained=chosen["also_trained"],
        judges=_judges(chosen["judges"], sections["evaluate"]["judges"]),
        min_motion=chosen["min_motion"],
        name=chosen["name"],
    )


def _taken(adapter: NamedAdapter) -> NamedAdapter:
    """With the folder that its path stands for now: a training that goes on may have another later."""
    try:
        return replace(adapter, path=taken_adapter(adapter.path) or adapter.path)
    except UserError:
        # Named later, with all else that is missing.
        return adapter


def _judges(named: Sequence[str], usual: Sequence[str]) -> tuple[JudgeChoice, ...]:
    """The judges named; with the preset's geometry where only judges of another kind are."""
    from pipeline.evaluation.judges.judge import JudgeChoice

    choices = [JudgeChoice.parse(one) for one in named]
    if not any(one.decides_geometry for one in choices):
        defaults = [JudgeChoice.parse(one) for one in usual]
        choices = [one for one in defaults if one.decides_geometry] + choices
    return tuple(choices)


def _print_evaluation(result: Evaluation) -> None:
    """The tables of every adapter, what their rows mean, and where the files lie, on stdout."""
    from rich.console import Console

    from pipeline.evaluation.tables import UNIT

    console = Console(width=170, highlight=False)
    for name in result.tables:
        console.print(_table(result, name, filtered=False))
    for name in result.filtered:
        if result.filtered[name] == result.tables[name]:
            console.print(f"{name}: no clip stands still, so the table without such clips is the same\n")
        else:
            console.print(_table(result, name, filtered=True))
    for measure in result.shown():
        console.print(f"{measure.name:17s} {measure.about}", soft_wrap=True)
    for line in (*result.header.lines(), UNIT):
        console.print(line, soft_wrap=True)
    console.print(f"contact sheet: {result.sheet}", soft_wrap=True)
    console.print(f"tables: {result.directory / 'evaluation.md'}, .csv, .json", soft_wrap=True)


def _table(result: Evaluation, name: str, *, filtered: bool) -> Table:
    from rich import box
    from rich.table import Table

    from pipeline.evaluation.tables import cells, title

    table = Table(title=title(result, name, filtered=filtered), title_justify="left", box=box.SIMPLE_HEAD)
    tables = result.filtered if filtered else result.tables
    rows = [cells(row, name, result.truth) for row in tables[name]]
    for column in rows[0] if rows else ():
        table.add_column(column, justify="left" if column == "measure" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table
