"""gpa demo: all stages, the evaluation and a report on the embedded world, by commands a user types."""

from __future__ import annotations

import io
import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import click

from jobs.settings.command import Command

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
        took.append((stage, _run(words, evaluated if stage == "evaluate" else None)))
    click.echo("\n" + "\n".join(ending(json.loads(evaluated.getvalue()), str(out / "eval" / "heldout"))))
    click.echo("\n" + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in took), nl=False)
    click.echo(f"; together {time.perf_counter() - started:.0f} s")
    click.echo(f"run      {out}\nadapter  {out / 'train' / 'dpo' / 'adapter'}")
    click.echo(f"report   {out / 'report' / 'index.html'}")
    click.echo(
        f"ask      gpa sample --help, gpa score --help, ...; any DuckDB shell reads {out}/scores/*.parquet"
    )


def _run(words: list[str], result: io.StringIO | None = None) -> float:
    """Runs a gpa command in this process, printed as a user would type it; returns the seconds it took.

    Where `result` is given, it takes the result as JSON and nothing of it is printed.
    What a command raises ends the demo; a command that finished with failed items (exit code 3) does not.
    """
    from jobs.main import PARTIAL, cli

    click.secho(f"\n$ gpa {' '.join(words)}", bold=True)
    started = time.perf_counter()
    ctx = click.get_current_context()
    command = cli.get_command(ctx, words[0])
    assert command is not None, words[0]
    args = words[1:] if result is None else [*words[1:], "--json"]
    with redirect_stdout(sys.stdout if result is None else result):
        code = command.main(args=args, prog_name=f"gpa {words[0]}", standalone_mode=False)
    if isinstance(code, int) and code not in (0, PARTIAL):
        ctx.exit(code)
    seconds = time.perf_counter() - started
    click.echo(f"({words[0]}: {seconds:.0f} s)")
    return seconds
