"""gpa bench faults, scale, simulate: what the pipeline loses, and how it scales, with a simulated sampler."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from jobs.figure_tables import print_tables
from jobs.settings.from_dataclass import options_of
from jobs.settings.options import (
    counts,
    finish,
    json_option,
    option,
    print_result,
    run_argument,
)
from pipeline.engine.worker_settings import WorkerSettings

if TYPE_CHECKING:
    from jobs.bench.faults.harness import Trial

FAULTS: Final = (
    "driver killed",
    "preempted",
    "worker killed",
    "node killed",
    "disk full",
    "read-only",
    "shard cut",
    "video cut",
    "latents cut",
    "clock changed",
)


@click.command("simulate")
@run_argument
@click.option("--journal", type=click.Path(path_type=Path), required=True, metavar="DIR")
@option("--candidates", type=click.IntRange(1), default=24, metavar="N", help="Candidates in all.")
@option("--batch", type=click.IntRange(1), default=1, metavar="N", help="Candidates of a task.")
@option("--seconds", type=float, default=0.05, metavar="X", help="Time that one takes.")
@option("--kilobytes", type=click.IntRange(1), default=16, metavar="N", help="Size of its latents.")
@option("--barrier", type=click.IntRange(0), default=0, metavar="N", help="Begin when so many are ready.")
@click.option("--wild-clock", is_flag=True, help="Wrong dates, by up to thirty years.")
@options_of(WorkerSettings)
@json_option
@click.pass_context
def simulate(ctx: click.Context, /, run: Path, journal: Path, as_json: bool, **chosen: Any) -> None:
    """Fill RUN with simulated candidates, which only wait and write; what the other two commands start."""
    from jobs.bench.faults.simulated import SimulatedSettings, run_simulated
    from storage.run import Run

    given = {name: value for name, value in chosen.items() if value is not None}
    summary = run_simulated(Run.create_or_open(run), journal, SimulatedSettings(**given))
    values = {**counts(summary), "ended": time.monotonic()}
    print_result(values, as_json, f"{summary.done} candidates made, {summary.present} were there")
    finish(ctx, summary, "candidates", "rejects")


@click.command("faults")
@option("--trials", type=click.IntRange(1), default=5, metavar="N", help="Trials of every fault.")
@click.option(
    "--only",
    type=click.Choice(FAULTS),
    multiple=True,
    help="Only this fault; may be repeated. [default: all]",
)
@option("--candidates", type=click.IntRange(4), default=40, metavar="N", help="Candidates of a trial.")
@option("--seconds", type=float, default=0.1, metavar="X", help="Time that one takes.")
@option("--seed", type=int, default=0, metavar="N", help="Seed of the moments at which faults strike.")
@json_option
@click.pass_context
def faults(
    ctx: click.Context, /, trials: int, only: tuple[str, ...], seed: int, as_json: bool, **sizes: Any
) -> None:
    """Kill, fill, cut and confuse a simulated sampling, then run the same command again and count.

    After every trial each candidate must be there exactly once, every file readable, and nothing finished
    done again more than once. Needs no GPU; a full and a read-only disk are small file systems where
    mounting is permitted, else limits and permissions.
    """
    from jobs.bench.faults.harness import run_drill

    command = (sys.executable, "-m", "jobs.main", "bench", "simulate")
    found = []
    for trial in run_drill(command, only or FAULTS, trials=trials, seed=seed, **sizes):
        found.append(trial)
        said = "as it should be" if trial.passed else f"FAILED {trial.trouble or ''}"
        click.echo(f"{trial.fault} ({trial.seconds:.1f} s): {said}", err=True)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        _print(found)
    failed = sum(not one.passed for one in found)
    if failed:
        click.echo(f"{failed} of {len(found)} trials lost something: see above", err=True)
        ctx.exit(1)


def _print(found: list[Trial]) -> None:
    from jobs.figure_tables import FigureTable

    names = ("struck", "candidates", "lost", "double", "broken", "again", "worst")
    rows = []
    for fault in dict.fromkeys(one.fault for one in found):
        of = [one for one in found if one.fault == fault]
        sums = [sum(getattr(one, name) for one in of) for name in names[:-1]]
        worst = max(one.worst for one in of)
        rows.append((fault, len(of), sum(not one.passed for one in of), *sums, worst))
    columns = (
        "fault",
        "trials",
        "failed",
        "struck",
        "candidates",
        "lost",
        "double",
        "broken",
        "again",
        "worst",
    )
    table = FigureTable(
        subject="faults", title="Faults", counts={"trials": len(found)}, columns=columns, rows=tuple(rows)
    )
    print_tables([table])


@click.command("scale")
@option("--candidates", type=click.IntRange(1), default=200, metavar="N", help="Candidates in all.")
@option("--seconds", type=float, default=1.0, metavar="X", help="Time that one takes.")
@option("--kilobytes", type=click.IntRange(1), default=1024, metavar="N", help="Size of its latents.")
@click.option(
    "--nodes",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 3),
    show_default=True,
    help="Simulated nodes.",
)
@click.option(
    "--actors", type=click.IntRange(1), multiple=True, default=(2, 4, 8), show_default=True, help="Workers."
)
@json_option
def scale(nodes: tuple[int, ...], actors: tuple[int, ...], as_json: bool, **sizes: Any) -> None:
    """Wall time of a simulated sampling against the ideal, and the memory of the driver.

    Time counts from the moment when all actors are ready to the end of the command's last task.
    """
    from jobs.bench.faults.scaling import measure_scaling
    from jobs.figure_tables import FigureTable

    command = (sys.executable, "-m", "jobs.main", "bench", "simulate")
    found = list(measure_scaling(command, nodes, actors, **sizes))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
        return
    names = tuple(one.name for one in dataclasses.fields(found[0]))
    rows = tuple(dataclasses.astuple(one) for one in found)
    print_tables(
        [FigureTable(subject="scale", title="Scaling", counts=dict(sizes), columns=names, rows=rows)]
    )
