"""gpa bench score: what scoring costs on this machine."""

from __future__ import annotations

import json
from typing import Any

import click

from jobs.figure_tables import print_tables
from jobs.settings.options import json_option, option


@click.command("score")
@option("--reward", default="reprojection", metavar="NAME", help="Which reward is taken apart.")
@option("--geometry", default="world", metavar="NAME", help="Geometry backend.")
@click.option(
    "--geometry-model",
    metavar="NAME",
    help="Weights of the backend; with vggt also `random`, the published architecture at random weights.",
)
@click.option("--geometry-revision", metavar="REV", help="Revision of a Hub id.")
@option(
    "--perceptual",
    type=click.Choice(["none", "ssim", "lpips-vgg", "lpips-alex"]),
    default="ssim",
    help="Perceptual term; LPIPS takes random weights where its backbone is missing.",
)
@option(
    "--rasteriser", type=click.Choice(["auto", "torch", "pytorch3d"]), default="auto", help="As in score."
)
@option("--clip-frames", type=click.IntRange(2), default=9, metavar="N", help="Frames of the clip.")
@option("--clip-height", type=click.IntRange(16), default=64, metavar="N", help="Its height in pixels.")
@option("--clip-width", type=click.IntRange(16), default=64, metavar="N", help="Its width in pixels.")
@option("--frames", type=click.IntRange(1), default=10, metavar="N", help="Frames that make the cloud.")
@option("--views", type=click.IntRange(1), default=10, metavar="N", help="Views it is drawn into.")
@option("--height", type=click.IntRange(1), default=288, metavar="N", help="Height of a view in pixels.")
@option("--width", type=click.IntRange(1), default=518, metavar="N", help="Width of a view in pixels.")
@option("--repetitions", type=click.IntRange(1), default=5, metavar="N", help="Rounds, after one to warm up.")
@click.option("--device", metavar="NAME", help="cpu or cuda. [default: cuda where there is one]")
@option("--threads", type=click.IntRange(1), default=1, metavar="N", help="CPU threads of torch.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, device: str | None, threads: int, **chosen: Any) -> None:
    """What scoring costs, stage by stage and against the obvious way.

    A clip (`--clip-...`) is decoded, reconstructed and compared as `gpa score` does, every stage timed; then
    a made-up cloud (`--frames`, `--views`, `--height`, `--width`) is drawn by each rasteriser and by a
    painter that sorts all points by depth. All of it in turn within one run, so that ratios hold on a busy
    machine. Fails when the drawings are not the same bit for bit.
    """
    import torch

    from jobs.bench.scoring.timing import threads as use_threads

    where = pick_device(device)
    with use_threads(threads):
        tables = _measure(chosen, where)
    about = {"device": where, "device_name": _name(where), "threads": threads, "torch": torch.__version__}
    if as_json:
        click.echo(json.dumps({**about, "tables": [table.as_dict() for table in tables]}, indent=2))
    else:
        click.echo(", ".join(f"{name} {value}" for name, value in about.items()))
        print_tables(tables)
    differing = [row[0] for row in tables[-1].rows if row[1] != "yes"]
    if differing:
        click.echo(f"error: not the same bit for bit: {'; '.join(map(str, differing))}", err=True)
        ctx.exit(1)


def _measure(chosen: dict[str, Any], device: str) -> list[Any]:
    from jobs.bench.scoring.candidates import ClipSize, CloudSize
    from jobs.bench.scoring.rasterisers import measure_rasterisers
    from jobs.bench.scoring.stages import StageSettings, measure_stages
    from jobs.progress import ConsoleProgress
    from pipeline.scoring.settings import RewardSettings

    settings = StageSettings(
        clip=ClipSize(**{name: chosen[f"clip_{name}"] for name in ("frames", "height", "width")}),
        reward=RewardSettings(
            reward=chosen["reward"],
            geometry=chosen["geometry"],
            geometry_model=chosen["geometry_model"],
            geometry_revision=chosen["geometry_revision"],
            options={name: chosen[name] for name in ("perceptual", "rasteriser")},
        ),
    )
    size = CloudSize(**{name: chosen[name] for name in ("frames", "views", "height", "width")})
    progress = ConsoleProgress("rounds")
    run = {"repetitions": chosen["repetitions"], "device": device, "progress": progress}
    return [measure_stages(settings, **run), *measure_rasterisers(size, **run)]


def pick_device(asked: str | None) -> str:
    """The device asked for, or the best there is. Raises UserError where torch cannot use it."""
    import torch

    from storage.errors import UserError

    there = torch.cuda.is_available()
    name = asked or ("cuda" if there else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {name}")
    if name.startswith("cuda") and not there:
        raise UserError("--device cuda asks for a GPU and torch sees none: use --device cpu")
    return name


def _name(device: str) -> str:
    import platform

    import torch

    return torch.cuda.get_device_name(device) if device != "cpu" else platform.machine()
