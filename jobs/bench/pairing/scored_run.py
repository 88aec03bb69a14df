"""A run of made-up scores: tables as `gpa sample` and `gpa score` leave them, at any size, without media."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage.run import Run
from storage.tables.ids import canonical_json, content_id, split_of
from storage.tables.schemas import TABLES
from storage.tables.shards import write_shard

REWARD, VERSION = "reprojection", "bench"
PER_PROMPT = 4
_FRAMES = 10
_POOL = 64
_MOVES = ("dolly in", "pan left", "orbit right", "tilt up")
_SCENES = ("a sunlit kitchen", "an old library", "a narrow alley", "a concrete hall", "a garden with statues")
_SAMPLER = canonical_json({"steps": 50, "guidance": 6.0, "scheduler": "ddim", "eta": 0.0})


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """How many rows, in what shards, from what seed. ValueError for sizes that are not whole prompts."""

    candidates: int
    rows_per_shard: int = 500_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("candidates", "rows_per_shard"):
            if getattr(self, name) < PER_PROMPT or getattr(self, name) % PER_PROMPT:
                rule = f"a positive multiple of {PER_PROMPT}, the candidates of a prompt"
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
            yield _part(rng, min(self.rows_per_shard, self.candidates - start) // PER_PROMPT)


def _part(rng: np.random.Generator, prompts: int) -> dict[str, pa.Table]:
    prompt_ids, scene_ids, candidate_ids = (
        _ids(rng, prompts),
        _ids(rng, prompts),
        _ids(rng, prompts * PER_PROMPT),
    )
    # Ids are hashes: those of a prompt's candidates lie anywhere in a shard.
    numbers = rng.permutation(np.repeat(np.arange(prompts), PER_PROMPT))
    owners = prompt_ids.take(pa.array(numbers))
    # A hundredth could not be sampled and has no score; a fiftieth of the rest could not be scored.
    failed = rng.random(prompts * PER_PROMPT) < 0.01
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
