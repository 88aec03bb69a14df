"""gpa pretrain-world: train the models of the embedded world from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from jobs.settings.command import Command
from jobs.settings.options import json_option, option, print_result

MODELS: Final = ("geometry", "geometry-judge", "referee", "generator", "generator-boxes", "referee-boxes")
_COUNT = click.IntRange(1)


@click.command("pretrain-world", cls=Command)
@option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("world-training"),
    metavar="DIR",
    help="Clips, curves and resumable state.",
)
@option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("world-checkpoints"),
    metavar="DIR",
    help="Where the checkpoints go.",
)
@click.option(
    "--only",
    type=click.Choice(MODELS),
    multiple=True,
    help="Train this model; may be repeated. [default: all]",
)
@option("--generator-steps", type=_COUNT, default=3000, metavar="N", help="Steps of the generator.")
@option("--generator-clips", type=_COUNT, default=2500, metavar="N", help="Clips the generator learns from.")
@option("--generator-batch", type=_COUNT, default=8, metavar="N", help="Clips a step of the generator.")
@option("--geometry-steps", type=_COUNT, default=1200, metavar="N", help="Steps of the geometry network.")
@option("--judge-steps", type=_COUNT, default=1200, metavar="N", help="Steps of the evaluation's own.")
@option("--referee-steps", type=_COUNT, default=700, metavar="N", help="Steps of the referee.")
@option(
    "--boxes-steps", type=_COUNT, default=1200, metavar="N", help="Steps of the generator with sliding boxes."
)
@option("--boxes-referee-steps", type=_COUNT, default=400, metavar="N", help="Steps of its referee.")
@option("--bank-clips", type=_COUNT, default=4000, metavar="N", help="Clips each of the others learns from.")
@option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Seed of everything random.")
@option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where the networks train.")
@json_option
def command(work: Path, out: Path, only: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Train the models of the embedded world from scratch: an hour or two on two cores.

    The geometry network, a second one to judge by, the referee and the generator with its codec, on clips
    rendered here; then the sibling whose fault is that boxes slide, and its referee, which begin from the
    former two. The same command again continues where the last saved step was (every 100 or 200 steps); more
    steps than before go on training. At the end a curve of each.

    The checkpoints go to the folder --out and are not used by themselves: look at them with
    `gpa bench world --checkpoints DIR`, then ship them by copying their folders over
    pipeline/world/checkpoints/.
    """
    from jobs.progress import TrainingProgress
    from pipeline.world.training.pretrain import PretrainSettings, pretrain

    settings = PretrainSettings(**chosen)
    made: dict[str, Any] = {}
    with TrainingProgress() as progress:
        for model in only or MODELS:
            folder = pretrain(model, work, out, settings, progress.show)
            made[model] = {"checkpoint": str(folder), "loss": _losses(model, work)}
    text = "\n".join(_line(model, result) for model, result in made.items())
    print_result(made, as_json, f"{text}\ncheckpoints: {out}")


def _losses(model: str, work: Path) -> list[float]:
    from pipeline.world.training.common import read_curve
    from pipeline.world.training.pretrain import TRAININGS

    return [entry["loss"] for entry in read_curve(work / TRAININGS[model].curve)]


def _line(model: str, result: dict[str, Any]) -> str:
    from jobs.progress import sparkline

    losses = result["loss"]
    if not losses:
        return f"{model:15} trained; too few steps for a curve"
    return f"{model:15} {sparkline(losses)}  loss {losses[0]:.3f} -> {losses[-1]:.3f}"
