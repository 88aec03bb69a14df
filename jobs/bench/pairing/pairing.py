"""`gpa pair --index-only` on made-up runs of several sizes, beside a Python loop over the rows as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.bench.pairing.json_pairs import write_json
from jobs.bench.pairing.scored_run import REWARD, ScoredRun
from storage.errors import UserError
from storage.run import Run
from storage.tables.shards import shard_files

SQL = "gpa pair --index-only"
JSON_ALL = "Python over JSON lines, the same rows"
JSON_NEEDED = "Python over JSON lines, only what it needs"
_MIN_GAP, _MAX_ERROR = 0.05, 0.8


@dataclass(frozen=True, kw_only=True)
class PairingFigures:
    """One run of one way: whole process, from its start to its end, in seconds and bytes."""

    way: str
    candidates: int
    pairs: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    shards: int | None = None

    @property
    def microseconds_each(self) -> float:
        """Time for one candidate."""
        return self.seconds / self.candidates * 1e6


def measure_pairing(
    folder: Path,
    sizes: Sequence[int],
    *,
    sample: int,
    rows_per_shard: int,
    cores: int,
    done: Callable[[PairingFigures], None],
) -> list[PairingFigures]:
    """Make a run of every size and pair it; the JSON loops on a run of `sample` candidates, in turn with SQL.

    Every process may use `cores` cores. `done` is told every figure as it comes. Raises UserError when a
    process fails, and when the loop and SQL do not find the same pairs.
    """
    found: list[PairingFigures] = []

    def note(figures: PairingFigures) -> None:
        found.append(figures)
        done(figures)

    run = _made(folder / "sample", sample, rows_per_shard)
    note(_sql(run, sample, cores))
    pairs = {(row["winner_id"], row["loser_id"]) for row in run.rows("pairs").to_pylist()}
    for way, needed_only in ((JSON_ALL, False), (JSON_NEEDED, True)):
        place = folder / ("json-needed" if needed_only else "json")
        write_json(run, place, needed_only=needed_only)
        note(_loop(way, place, sample, pairs, cores))
    for size in sizes:
        if size != sample:
            note(_sql(_made(folder / str(size), size, rows_per_shard), size, cores))
    return found


def _made(path: Path, candidates: int, rows_per_shard: int) -> Run:
    run = Run.create_or_open(path)
    ScoredRun(candidates=candidates, rows_per_shard=min(rows_per_shard, candidates)).write(run)
    return run


def _sql(run: Run, candidates: int, cores: int) -> PairingFigures:
    words = ["jobs.main", "pair", str(run.path), "--index-only", "--json", "--preset", "world"]
    words += ["--reward", REWARD, "--split", "all"]
    words += ["--min-gap", str(_MIN_GAP), "--max-error", str(_MAX_ERROR), "--min-motion", "0"]
    words += ["--min-image-motion", "0", "--min-sharpness", "0", "--min-coverage", "0"]
    words += ["--max-motion-ratio", "inf", "--min-motion-ratio", "0", "--min-image-motion-ratio", "0"]
    words += ["--min-sharpness-ratio", "0", "--strategy", "best-worst", "--threads", str(cores)]
    seconds, cpu, peak, output = _process(words, cores)
    return PairingFigures(
        way=SQL,
        candidates=candidates,
        pairs=int(json.loads(output)["pairs"]),
        seconds=seconds,
        cpu_seconds=cpu,
        peak_bytes=peak,
        shards=len(shard_files(run.shard_dir("pairs"))),
    )


def _loop(way: str, place: Path, candidates: int, pairs: set[tuple[str, str]], cores: int) -> PairingFigures:
    words = ["jobs.bench.pairing.json_pairs", str(place), str(_MIN_GAP), str(_MAX_ERROR)]
    seconds, cpu, peak, _ = _process(words, cores)
    with (place / "pairs.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    if {(row["winner_id"], row["loser_id"]) for row in rows} != pairs:
        raise UserError(f"SQL and the loop over JSON made different pairs in {place.parent}: report this")
    return PairingFigures(
        way=way, candidates=candidates, pairs=len(rows), seconds=seconds, cpu_seconds=cpu, peak_bytes=peak
    )


def _process(words: list[str], cores: int) -> tuple[float, float, int, str]:
    """Run a module: seconds, seconds of all cores, peak bytes, and what it printed."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, allowed)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"`python -m {' '.join(words)}` failed with {process.returncode}: see its message")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output
