"""gpa bench footage: the study that the bounds of pairing on footage follow from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from jobs.figure_tables import print_tables
from jobs.settings.options import json_option, option

# What a person may ask for where pairing has no bound by itself.
_SHOWN = {"overlay": 0.01, "split_screen": 0.5}


@click.command("footage")
@option("--split", type=click.Choice(["test", "val", "train"]), default="test", help="Scenes of the world.")
@option("--clips", type=click.IntRange(1), default=20, metavar="N", help="True clips of the world.")
@click.option(
    "--videos",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Folder of other footage: .mp4 files of one shot each, and pictures to pan over.",
)
@json_option
def command(split: str, clips: int, videos: Path | None, as_json: bool) -> None:
    """What the measures of footage find in clips with a cut, a fade, bars, text, a logo, a split screen.

    The faults are put into true clips of the world, into its faulty ones, and into footage of yours; the
    clips as they are tell the false alarms. Overlay and split screen, which pair has no bound on by itself,
    are shown at a usual one. On the CPU, about two seconds a clip.
    """
    from jobs.bench.spoiling.sources import folder_clips, world_clips
    from jobs.bench.spoiling.study import MEASURES, measure
    from jobs.progress import ConsoleProgress
    from storage.mining.rules import PairRules

    sources = world_clips(split, clips) | ({} if videos is None else folder_clips(videos))
    rules = PairRules()
    bounds = {name: getattr(rules, f"max_{name}") for name in MEASURES} | _SHOWN
    tables = measure(sources, bounds, ConsoleProgress("clips"))
    if as_json:
        click.echo(json.dumps([table.as_dict() for table in tables], indent=2))
    else:
        print_tables(tables)
