"""gpa bench pair: how long pairing takes, and how that grows."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.figure_tables import print_tables
from jobs.settings.options import below_option, json_option, option

if TYPE_CHECKING:
    from jobs.bench.pairing.pairing import PairingFigures


@click.command("pair")
@click.option(
    "--candidates",
    "sizes",
    type=click.IntRange(4),
    multiple=True,
    default=(100_000, 1_000_000),
    show_default=True,
    metavar="N",
    help="Scored candidates, 4 to a prompt; may be repeated.",
)
@option("--sample", type=click.IntRange(4), default=100_000, metavar="N", help="Candidates for JSON.")
@option("--rows-per-shard", type=click.IntRange(4), default=500_000, metavar="N", help="Rows of a shard.")
@option("--cores", type=click.IntRange(1), default=2, metavar="N", help="Cores that every process may use.")
@below_option
@json_option
def command(
    sizes: tuple[int, ...],
    sample: int,
    rows_per_shard: int,
    cores: int,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Time and memory of gpa pair --index-only, against a Python loop over JSON.

    Makes runs with scores from a random generator and pairs them, each in a process of its own, from its
    start to its end. The loop reads the same rows of one sample, must find the same pairs, and is compared
    with SQL on the sample and, by its time for a candidate, on the other sizes. 10 million candidates need
    2 GiB of disk. Everything is deleted at the end.
    """
    from jobs.bench.pairing.pairing import measure_pairing

    with tempfile.TemporaryDirectory(prefix="gpa-bench-", dir=directory) as name:
        found = measure_pairing(
            Path(name),
            sizes,
            sample=sample,
            rows_per_shard=rows_per_shard,
            cores=cores,
            done=lambda one: click.echo(f"{one.way}, {one.candidates:,}: {one.seconds:.1f} s", err=True),
        )
    if as_json:
        click.echo(json.dumps({"cores": cores, "rows": [asdict(row) for row in found]}, indent=2))
    else:
        _print(found, cores)


def _print(found: list[PairingFigures], cores: int) -> None:
    from jobs.bench.pairing.pairing import JSON_ALL, SQL
    from jobs.figure_tables import FigureTable

    loop = next(row for row in found if row.way == JSON_ALL)
    rows = tuple(
        (
            row.way,
            f"{row.candidates:,}",
            f"{row.pairs:,}",
            row.seconds,
            row.microseconds_each,
            row.peak_bytes / 2**30,
            loop.microseconds_each / row.microseconds_each if row.way == SQL else None,
        )
        for row in found
    )
    table = FigureTable(
        subject="pair",
        title="Pairs of scored candidates, the whole process",
        counts={"cores": cores},
        columns=("way", "candidates", "pairs", "seconds", "us each", "peak GiB", "times JSON"),
        rows=rows,
    )
    print_tables([table])
