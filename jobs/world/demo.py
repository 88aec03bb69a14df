"""gpa demo: all stages, the evaluation and a report on the embedded world, by commands a user types."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import click

from jobs.settings.command import Command
from jobs.stages import run_stage

# A report of some of the pairs costs seconds; gpa report shows more.
_REPORT = ["--pairs", "120", "--reconstructions", "6"]
# What `--fast` makes smaller: every stage runs for real, on too little data to show an effect.
_FAST: dict[str, list[str]] = {
    "sample": ["--num-prompts", "4", "--candidates", "4", "--batch", "4", "--steps", "6"],
    "score": [],
    "pair": ["--min-gap", "0", "--min-motion-ratio", "0", "--max-motion-ratio", "inf"],
    "train-dpo": ["--steps", "6", "--warmup", "2", "--batch-size", "4", "--checkpoint-every", "3"],
    "evaluate": ["--num-prompts", "3", "--seeds", "2"],
    "report": [],
}


@click.command("demo", cls=Command)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    metavar="RUN",
    help="The run directory.",
)
@click.option(
    "--fast", is_flag=True, help="Minutes become seconds: too little data for an effect, all stages real."
)
@click.option(
    "--workers", type=int, default=2, show_default=True, metavar="N", help="Ray actors; 0 is in-process."
)
def command(out: Path, fast: bool, workers: int) -> None:
    """Sample, score, pair, train, evaluate and report on the embedded world; print what alignment changed.

    No download, no GPU: about 7 minutes on two cores. Each stage is the command printed above it; after an
    interruption the same demo continues.
    """
    from jobs.world.ending import ending

    started = time.perf_counter()
    took = []
    evaluated = io.StringIO()
    for stage in _FAST:
        words = [stage, str(out), *(_FAST[stage] if fast else [])]
        if stage in ("sample", "score", "evaluate"):
            words += ["--workers", str(workers)]
        if stage == "report":
            words += _REPORT
        # Its full table is in its files; the demo ends with a shorter one.
        took.append((stage, run_stage(words, evaluated if stage == "evaluate" else None)))
    click.echo("\n" + "\n".join(ending(json.loads(evaluated.getvalue()), str(out / "eval" / "heldout"))))
    click.echo("\n" + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in took), nl=False)
    click.echo(f"; together {time.perf_counter() - started:.0f} s")
    click.echo(f"run      {out}\nadapter  {out / 'train' / 'dpo' / 'adapter'}")
    click.echo(f"report   {out / 'report' / 'index.html'}")
    click.echo(
        f"ask      gpa sample --help, gpa score --help, ...; any DuckDB shell reads {out}/scores/*.parquet"
    )
