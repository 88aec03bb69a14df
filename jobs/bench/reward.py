"""gpa bench reward: the study that the defaults of scoring and pairing follow from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from jobs.figure_tables import print_tables
from jobs.settings.options import json_option, option
from jobs.settings.presets import load_preset

if TYPE_CHECKING:
    from jobs.figure_tables import FigureTable

SUBJECTS: Final = ("faults", "ranking")
_GUARDS: Final = ("min_motion", "min_image_motion", "min_sharpness", "min_coverage")


@click.command("reward")
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the embedded world's checkpoints. [default: those that come with gpa]",
)
@click.option(
    "--only",
    type=click.Choice(SUBJECTS),
    multiple=True,
    help="Measure this; may be repeated. [default: both]",
)
@option("--split", type=click.Choice(["test", "val", "train"]), default="test", help="Scenes to measure on.")
@option("--clips", type=click.IntRange(1), default=50, metavar="N", help="True clips that get faults.")
@option("--prompts", type=click.IntRange(1), default=64, metavar="N", help="Prompts that are sampled.")
@option("--seeds", type=click.IntRange(2), default=8, metavar="N", help="Samples a prompt.")
@option("--steps", type=click.IntRange(1), default=10, metavar="N", help="Denoising steps.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Write the tables as a PNG too."
)
@json_option
def command(
    checkpoints: Path | None, only: tuple[str, ...], plot: Path | None, as_json: bool, **chosen: Any
) -> None:
    """Which reward can be trusted, on the embedded world, where the truth is known.

    Labelled faults at several strengths on true clips, with predicted and with true geometry: how often each
    reward prefers the true clip, and what the guards of `gpa pair` reject. And samples of two base models
    with faults of their own: does the reward order the seeds of a prompt as a referee does that it never
    sees? LPIPS takes part when its backbone is in torch's cache. On the CPU, about half an hour.
    """
    import torch

    from jobs.bench.world.held_out import CHECKPOINTS, HeldOut, measure
    from jobs.progress import ConsoleProgress

    torch.set_num_threads(1)
    pairing = load_preset("world")["pair"]
    held_out = HeldOut(
        checkpoints=checkpoints or CHECKPOINTS,
        progress=ConsoleProgress("items"),
        guards={name: pairing[name] for name in _GUARDS if pairing[name] > 0},
        **chosen,
    )
    tables = measure(held_out, only or SUBJECTS)
    if plot is not None:
        _plot(plot, tables)
    if as_json:
        click.echo(json.dumps([table.as_dict() for table in tables], indent=2))
    else:
        print_tables([table for table in tables if not table.detail])


def _plot(path: Path, tables: list[FigureTable]) -> None:
    from jobs.bench.world.chart import write_chart
    from jobs.bench.world.faults import MEDIUM

    columns = {"AUC": tuple(MEDIUM.values()), "Ranking": ("best over worst", " low", " high")}
    shown = [
        (table, names)
        for table in tables
        for word, names in columns.items()
        if word in table.title and not table.detail
    ]
    write_chart(path, [table for table, _ in shown], [names for _, names in shown])
