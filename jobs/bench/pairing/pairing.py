"""`gpa pair --index-only` on made-up runs of several sizes, beside a Python loop over the rows as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.bench.pairing.json_pairs import write_json
from storage.errors import UserError
from storage.run import Run
from storage.tables.ids import canonical_json, content_id, split_of
from storage.tables.schemas import TABLES
from storage.tables.shards import shard_files, write_shard

REWARD, VERSION = "reprojection", "bench"
_PER_PROMPT = 4
_FRAMES = 10
_POOL = 64
_MOVES = ("dolly in", "pan left", "orbit right", "tilt up")
_SCENES = ("a sunlit kitchen", "an old library", "a narrow alley", "a concrete hall", "a garden with statues")
_SAMPLER = canonical_json({"steps": 50, "guidance": 6.0, "scheduler": "ddim", "eta": 0.0})


@dataclass(frozen=True, kw_only=True)
class _ScoredRun:
    """How many rows, in what shards, from what seed. ValueError for sizes that are not whole prompts."""

    candidates: int
    rows_per_shard: int = 500_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("candidates", "rows_per_shard"):
            if getattr(self, name) < _PER_PROMPT or getattr(self, name) % _PER_PROMPT:
                rule = f"a positive multiple of {_PER_PROMPT}, the candidates of a prompt"
                raise ValueError(f"ScoredRun.{name} must be {rule}, got {getattr(self, name)}")

    def write(self, run: Run) -> None:
        """Write prompts, candidates and scores, one shard of each at a time."""
        for tables in self.parts():
            for name, table in tables.items():
                write_shard(run.shard_dir(name), name, table)

    def parts(self) -> Iterator[dict[str, pa.Table]]:
        """Every part holds whole prompts: its prompts, their candidates, and the scores of these."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.candidates, self.rows_per_shard):
            yield _part(rng, min(self.rows_per_shard, self.candidates - start) // _PER_PROMPT)


def _part(rng: np.random.Generator, prompts: int) -> dict[str, pa.Table]:
    prompt_ids, scene_ids, candidate_ids = (
        _ids(rng, prompts),
        _ids(rng, prompts),
        _ids(rng, prompts * _PER_PROMPT),
    )
    # Ids are hashes: those of a prompt's candidates lie anywhere in a shard.
    numbers = rng.permutation(np.repeat(np.arange(prompts), _PER_PROMPT))
    owners = prompt_ids.take(pa.array(numbers))
    # A hundredth could not be sampled and has no score; a fiftieth of the rest could not be scored.
    failed = rng.random(prompts * _PER_PROMPT) < 0.01
    scored = candidate_ids.filter(pa.array(~failed))
    return {
        "prompts": _prompts(rng, prompt_ids, scene_ids),
        "candidates": _candidates(rng, candidate_ids, owners, failed),
        "scores": _scores(rng, scored, rng.gamma(4.0, 0.04, prompts)[numbers[~failed]]),
    }


def _prompts(rng: np.random.Generator, ids: pa.Array, scenes: pa.Array) -> pa.Table:
    count = len(ids)
    texts = [
        f"{_SCENES[scene]} at noon, the camera moves: {_MOVES[move]}, light {number}"
        for scene, move, number in zip(
            rng.integers(len(_SCENES), size=count),
            rng.integers(len(_MOVES), size=count),
            range(count),
            strict=True,
        )
    ]
    moves = pa.array([[move] for move in _MOVES], pa.list_(pa.string()))
    columns = {
        "prompt_id": ids,
        "scene_id": scenes,
        "split": pa.array([split_of(scene) for scene in scenes.to_pylist()]),
        "text": pa.array(texts),
        "camera_motion": moves.take(pa.array(rng.integers(len(_MOVES), size=count))),
        "image_uri": pa.nulls(count, pa.string()),
        "metadata": pa.nulls(count, pa.string()),
    }
    return _table("prompts", columns, count)


def _candidates(rng: np.random.Generator, ids: pa.Array, owners: pa.Array, failed: np.ndarray) -> pa.Table:
    uris = [f"media/videos/{identity}.mp4" for identity in ids.to_pylist()]
    latents = [uri.replace("videos", "latents").replace("mp4", "safetensors") for uri in uris]
    gone = pa.array(failed)
    columns = {
        "candidate_id": ids,
        "prompt_id": owners,
        "seed": pa.array(rng.integers(2**62, size=len(ids))),
        "model": "zai-org/CogVideoX-5b",
        "revision": content_id("revision"),
        "sampler": _SAMPLER,
        "num_frames": 49,
        "height": 480,
        "width": 720,
        "fps": 8.0,
        "video_uri": pa.array(uris, mask=failed),
        "latent_uri": pa.array(latents, mask=failed),
        "status": pa.DictionaryArray.from_arrays(gone.cast(pa.int8()), ["ok", "failed"]).cast(pa.string()),
        "reason": pa.array(np.full(len(ids), "out of memory"), mask=~failed),
        "seconds": pa.array(rng.gamma(9.0, 10.0, len(ids))),
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return _table("candidates", columns, len(ids))


def _scores(rng: np.random.Generator, ids: pa.Array, hardness: np.ndarray) -> pa.Table:
    count = len(ids)
    errors = hardness + rng.gamma(2.0, 0.04, count)
    unknown = rng.random(count) < 0.02
    columns = {
        "candidate_id": ids,
        "reward": REWARD,
        "reward_version": VERSION,
        "value": pa.array(-errors, mask=unknown),
        "reason": pa.array(np.full(count, "too few points"), mask=~unknown),
        "geometry_model": "facebook/VGGT-1B",
        "geometry_revision": content_id("geometry"),
        "geometry_license": "cc-by-nc-4.0",
        "mse": pa.array(errors * 0.3),
        "lpips": pa.array(errors * 0.7),
        "perceptual": "vgg",
        "frame_indices": _lists(np.arange(_FRAMES)[None].repeat(_POOL, 0) * 5, rng, count, pa.int32()),
        # Poses come from a small pool, so that 10 million of them fit on a disk; a reader of other columns
        # does not see the difference.
        "frame_errors": _lists(rng.gamma(2.0, 0.1, (_POOL, _FRAMES)), rng, count, pa.float32()),
        "w2c": _lists(rng.normal(size=(_POOL, 12 * _FRAMES)), rng, count, pa.float32()),
        "intrinsics": _lists(rng.normal(size=(_POOL, 9 * _FRAMES)), rng, count, pa.float32()),
        "seconds": pa.array(rng.gamma(4.0, 0.5, count)),
    }
    measures = ("coverage", "motion", "image_motion", "sharpness")
    columns |= {name: pa.array(rng.gamma(6.0, 0.1, count)) for name in measures}
    return _table("scores", columns, count)


def _ids(rng: np.random.Generator, count: int) -> pa.Array:
    """Ids as `content_id` makes them, 32 hexadecimal digits, in the order in which shards have them."""
    names = np.sort(np.frombuffer(rng.bytes(16 * count).hex().encode(), "S32"))
    digits = np.frombuffer(names.tobytes(), np.uint8)
    ends = np.arange(0, 32 * count + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(digits))


def _lists(pool: np.ndarray, rng: np.random.Generator, count: int, kind: pa.DataType) -> pa.Array:
    values = pool.astype(kind.to_pandas_dtype())[rng.integers(len(pool), size=count)]
    ends = np.arange(count + 1, dtype=np.int32) * pool.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.reshape(-1)))


def _table(name: str, columns: dict[str, Any], rows: int) -> pa.Table:
    schema = TABLES[name]
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if not isinstance(value, pa.Array):
            value = pa.repeat(pa.scalar(value, field.type), rows)
        arrays.append(value.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


SQL = "gpa pair --index-only"
JSON_ALL = "Python over JSON lines, the same rows"
_JSON_NEEDED = "Python over JSON lines, only what it needs"
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
    for way, needed_only in ((JSON_ALL, False), (_JSON_NEEDED, True)):
        place = folder / ("json-needed" if needed_only else "json")
        write_json(run, place, needed_only=needed_only)
        note(_loop(way, place, sample, pairs, cores))
    for size in sizes:
        if size != sample:
            note(_sql(_made(folder / str(size), size, rows_per_shard), size, cores))
    return found


def _made(path: Path, candidates: int, rows_per_shard: int) -> Run:
    run = Run.create_or_open(path)
    _ScoredRun(candidates=candidates, rows_per_shard=min(rows_per_shard, candidates)).write(run)
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
