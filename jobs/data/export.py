"""gpa export: the pairs of a run as a folder for the Hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from jobs.settings.command import Command
from jobs.settings.options import json_option, print_result, run_argument


@click.command("export", cls=Command)
@run_argument
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option(
    "--pairs",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Pairs that are elsewhere. [default: RUN/pairs]",
)
@click.option("--videos", is_flag=True, help="Copy the videos of the pairs too, by split, as a VideoFolder.")
@json_option
def command(run: Path, destination: Path, pairs: Path | None, videos: bool, as_json: bool) -> None:
    """Write the pairs of RUN into DEST, a new folder that the Hugging Face Hub takes as it is.

    Parquet shards by split, and a dataset card that says where the videos come from, what judged them, and
    under which terms they are. Upload it with `hf upload NAME DEST --repo-type dataset`.
    """
    from storage.hub.export import export_pairs
    from storage.run import Run

    done = export_pairs(Run.open(run), destination, pairs, videos=videos)
    counts = ", ".join(f"{count:,} {split}" for split, count in done.splits.items())
    what = "with their tensors" if done.tensors else "without tensors"
    values = asdict(done) | {"directory": str(done.directory)}
    if videos:
        what += f" and {done.videos} videos"
    text = f"{counts} pairs {what} in {done.files} files, {done.bytes / 2**20:.1f} MiB, in {done.directory}"
    print_result(values, as_json, text)
