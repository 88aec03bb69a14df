"""gpa evaluate: a base model against adapters on held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.options import (
    dry_run_option,
    json_option,
    option,
    print_result,
    recordable,
    run_argument,
    worker_options,
)
from jobs.presets import PresetCommand, load_preset, preset_option

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.comparison import Row
    from pipeline.evaluate import EvaluateSettings, Evaluation
    from storage.run import Run


@click.command("evaluate", cls=PresetCommand)
@run_argument
@preset_option
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[NAME=]DIR",
    help="LoRA folder; may be given several times. [default: that of the training dpo]",
)
@click.option("--model", metavar="NAME", help="The base. [default: that of the preset's sample]")
@click.option("--revision", metavar="REV", help="Revision of a Hub id.")
@option("--name", metavar="NAME", help="The evaluation goes to RUN/eval/NAME.")
@option(
    "--prompts", type=click.Path(path_type=Path), metavar="FILE", help="JSONL prompts instead of the world's."
)
@option("--split", metavar="NAME", help="Split of the world's prompts.")
@option("--num-prompts", type=int, metavar="N", help="How many of the world's prompts.")
@option("--seeds", type=int, metavar="N", help="Clips per prompt and model; the same seeds for every model.")
@option("--seed", type=int, metavar="N", help="Seed that the clips' seeds follow from.")
@worker_options
@dry_run_option
@json_option
def command(
    run: Path, preset: str, dry_run: bool, as_json: bool, adapters: tuple[str, ...], **chosen: Any
) -> None:
    """Compare the base model with adapters on held-out prompts, with the same seeds.

    The judge of faults is a network that no reward has seen; it and the PSNR need prompts of the embedded
    world. Sampling and scoring follow the sample and score sections of the preset.
    """
    from jobs.progress import ConsoleProgress
    from pipeline.evaluate import as_json as plain
    from pipeline.evaluate import run_evaluate
    from storage.run import Run

    opened = Run.open(run)
    folders = adapters or (str(opened.path / "train" / "dpo" / "adapter"),)
    settings = evaluate_settings(preset, folders, chosen)
    if dry_run:
        _foretell(opened, settings, as_json)
        return
    opened.record(
        f"evaluate {settings.name}", recordable({**chosen, "preset": preset, "adapters": list(folders)})
    )
    result = run_evaluate(opened, settings, progress=ConsoleProgress)
    if as_json:
        click.echo(json.dumps(plain(result), sort_keys=True))
        return
    print_evaluation(result)


def _foretell(run: Run, settings: EvaluateSettings, as_json: bool) -> None:
    from pipeline.forecast import total
    from pipeline.forecasts import forecast_evaluate

    sampling, scoring = forecast_evaluate(run, settings)
    values = {"sample": sampling.as_dict(), "score": scoring.as_dict(), **total((sampling, scoring))}
    print_result(values, as_json, f"sample: {sampling}\nscore: {scoring}")


def evaluate_settings(preset: str, adapters: tuple[str, ...], chosen: dict[str, Any]) -> EvaluateSettings:
    """Settings from the options of the command and the preset's sections for sample and score."""
    from jobs.sample import sample_settings
    from jobs.score import score_settings
    from pipeline.evaluate import EvaluateSettings, NamedAdapter

    sections = load_preset(preset)
    shared = {name: chosen[name] for name in ("workers", "gpus_per_worker", "ray_address")}
    sample = (
        sections["sample"]
        | shared
        | {
            "model": chosen["model"] or sections["sample"]["model"],
            "revision": chosen["revision"],
            "prompts": chosen["prompts"],
            "split": chosen["split"],
            "num_prompts": chosen["num_prompts"],
            "candidates": chosen["seeds"],
            "batch": chosen["seeds"],
            "seed": chosen["seed"],
        }
    )
    named = []
    for adapter in adapters:
        name, _, folder = adapter.rpartition("=")
        named.append(NamedAdapter(name=name or "aligned", path=Path(folder)))
    return EvaluateSettings(
        sample=sample_settings(sample),
        score=score_settings(sections["score"] | shared),
        adapters=tuple(named),
        name=chosen["name"],
    )


def print_evaluation(result: Evaluation) -> None:
    """The table of every adapter, what its rows mean, and where the contact sheet lies, on stdout."""
    from rich.console import Console

    from pipeline.judging import MEASURES

    console = Console(width=100, highlight=False)
    for name, rows in result.tables.items():
        console.print(_table(name, rows))
    shown = {row.measure for rows in result.tables.values() for row in rows}
    for measure in MEASURES:
        if measure.name in shown:
            console.print(f"{measure.name:13s} {measure.about}")
    console.print(f"contact sheet: {result.sheet}", soft_wrap=True)


def _table(name: str, rows: list[Row]) -> Table:
    from rich import box
    from rich.table import Table

    title = f"{name} against base: {rows[0].prompts} held-out prompts, same seeds, 95 % intervals"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("measure", "base", name, "difference", "prompts better"):
        table.add_column(column, justify="left" if column == "measure" else "right", no_wrap=True)
    for row in rows:
        change, wins = row.difference, row.win_rate
        table.add_row(
            row.measure,
            f"{row.base:.4g}",
            f"{row.adapter:.4g}",
            f"{change.mean:+.3g} [{change.low:+.3g}, {change.high:+.3g}]",
            "" if wins is None else f"{wins.mean:.0%} [{wins.low:.0%}, {wins.high:.0%}]",
        )
    return table
