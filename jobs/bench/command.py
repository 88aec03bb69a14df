"""gpa bench: measure what this checkout ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from jobs.bench.fault_commands import faults, scale, simulate
from jobs.bench.footage import command as footage
from jobs.bench.importing import command as import_command
from jobs.bench.loader import command as loader
from jobs.bench.pair import command as pair
from jobs.bench.reward import command as reward
from jobs.bench.score import command as score
from jobs.bench.train import command as train
from jobs.figure_tables import print_tables
from jobs.settings.options import json_option, option

SUBJECTS: Final = ("codec", "generator", "geometry", "referee")


@click.group("bench")
def command() -> None:
    """Measure the models and rewards that come with gpa."""


@command.command("world")
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with generator/, geometry/ and referee/. [default: those that come with gpa]",
)
@click.option(
    "--only",
    type=click.Choice(SUBJECTS),
    multiple=True,
    help="Measure this; may be repeated. [default: everything]",
)
@option("--split", type=click.Choice(["test", "val", "train"]), default="test", help="Scenes to measure on.")
@option("--clips", type=click.IntRange(1), default=50, metavar="N", help="True clips.")
@option("--prompts", type=click.IntRange(1), default=40, metavar="N", help="Prompts that are sampled.")
@option("--seeds", type=click.IntRange(1), default=8, metavar="N", help="Samples a prompt.")
@option("--steps", type=click.IntRange(1), default=20, metavar="N", help="Denoising steps.")
@json_option
def world(checkpoints: Path | None, only: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Held-out figures of the embedded world.

    How well its codec, generator, geometry network and referee do on scenes that none of them was trained
    on. Runs on the CPU, in a few minutes with all defaults. `gpa bench reward` measures the rewards.
    """
    import torch

    from jobs.bench.world.held_out import CHECKPOINTS, HeldOut, measure
    from jobs.progress import ConsoleProgress

    torch.set_num_threads(1)
    held_out = HeldOut(checkpoints=checkpoints or CHECKPOINTS, progress=ConsoleProgress("items"), **chosen)
    tables = measure(held_out, only or SUBJECTS)
    if as_json:
        click.echo(json.dumps([table.as_dict() for table in tables], indent=2))
    else:
        print_tables(tables)


command.add_command(score)
command.add_command(reward)
command.add_command(train)
command.add_command(loader)
command.add_command(faults)
command.add_command(scale)
command.add_command(simulate)
command.add_command(pair)
command.add_command(import_command)
command.add_command(footage)
