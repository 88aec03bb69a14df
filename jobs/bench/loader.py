"""gpa bench loader: how fast random pairs are read."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from jobs.figure_tables import print_tables
from jobs.settings.options import below_option, json_option, option

if TYPE_CHECKING:
    from jobs.bench.training.loading import LoadingFigures


@click.command("loader")
@option("--model", default="cogvideox-5b-i2v", metavar="NAME", help="Published model whose sizes are taken.")
@option("--num-frames", type=click.IntRange(1), default=49, metavar="N", help="Frames of its videos.")
@option("--height", type=click.IntRange(8), default=480, metavar="PIXELS", help="Height of its videos.")
@option("--width", type=click.IntRange(8), default=720, metavar="PIXELS", help="Width of its videos.")
@option("--pairs", type=click.IntRange(1), default=32, metavar="N", help="Pairs that are written and read.")
@option("--rounds", type=click.IntRange(1), default=5, metavar="N", help="Rounds, each in another order.")
@below_option
@json_option
def command(
    model: str,
    num_frames: int,
    height: int,
    width: int,
    pairs: int,
    rounds: int,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Random pairs a second from pair shards, against a file for every tensor.

    Writes the same random pairs both ways and reads them in random order, in turn: cold, with the files
    dropped from the page cache, and warm. Everything is deleted at the end. The first epoch checks sums and
    numbers of each pair, later ones do not.
    """
    from jobs.bench.training.architectures import architecture
    from jobs.bench.training.loading import measure_loading, write_both

    shapes = architecture(model).shapes(num_frames, height, width)
    with tempfile.TemporaryDirectory(prefix="gpa-bench-", dir=directory) as name:
        size = write_both(Path(name), shapes, pairs)
        found = measure_loading(Path(name), pairs, rounds=rounds)
    if as_json:
        rows = [asdict(row) for row in found]
        click.echo(json.dumps({"model": model, "pairs": pairs, "pair_bytes": size, "rows": rows}, indent=2))
        return
    click.echo(f"{pairs} pairs of {model}, {size / 2**20:.1f} MiB each")
    _print(found, pairs, rounds)


def _print(found: list[LoadingFigures], pairs: int, rounds: int) -> None:
    from jobs.figure_tables import FigureTable

    files = found[-1]
    rows = []
    for row in found:
        ratios = [
            median([ours / theirs for ours, theirs in zip(mine, base, strict=True)])
            for mine, base in ((row.cold, files.cold), (row.warm, files.warm))
        ]
        rows.append((row.name, median(row.cold), ratios[0], median(row.warm), ratios[1]))
    table = FigureTable(
        subject="loader",
        title="Pairs a second",
        counts={"pairs": pairs, "rounds": rounds},
        columns=("read from", "cold", "of files", "warm", "of files "),
        rows=tuple(rows),
    )
    print_tables([table])
