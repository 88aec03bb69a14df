"""Reading random pairs: from pair shards, and the obvious way, a file for every tensor.

The pairs are random numbers in the sizes of a published model; both ways hold the same ones.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from storage.media.tensors import write_tensors
from storage.pairs.dataset import PairDataset
from storage.pairs.writer import write_pair_shards
from storage.run import Run
from storage.tables.records import Candidate, Pair, utc_now
from storage.tables.schemas import TABLES, default_columns
from storage.tables.shards import write_shard
from trainer.families.base import PairShapes

SHARDS, AGAIN, FILES = "shards, first epoch", "shards, later epochs", "a file a tensor, torch.load"
_Read = Callable[[int], Any]


@dataclass(frozen=True, kw_only=True)
class LoadingFigures:
    """Pairs a second of one way, over rounds, with files in the page cache (warm) or dropped from it."""

    name: str
    cold: tuple[float, ...]
    warm: tuple[float, ...]


def write_both(directory: Path, shapes: PairShapes, pairs: int) -> int:
    """Write the pairs both ways; the bytes of one pair. Raises UserError when the disk is full."""
    run = Run.create_or_open(directory / "run")
    files = directory / "files"
    files.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    candidates, rows, size = [], [], 0
    for number in range(pairs):
        tensors = _tensors(shapes, generator)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        for name, tensor in tensors.items():
            torch.save(tensor, files / f"{number}-{name}.pt")
        prompt_id = f"{number:06}"
        condition = {name: value for name, value in tensors.items() if not name.endswith("er_latents")}
        write_tensors(run.resolve(run.condition_uri(prompt_id)), condition)
        for side in ("winner", "loser"):
            identity = f"{prompt_id}-{side}"
            write_tensors(run.resolve(run.latent_uri(identity)), {"latents": tensors[f"{side}_latents"]})
            candidates.append(_candidate(run, identity, prompt_id, shapes))
        rows.append(_row(prompt_id))
    write_shard(run.shard_dir("candidates"), "candidates", candidates)
    schema = pa.schema([TABLES["pairs"].field(name) for name in default_columns("pairs")])
    write_pair_shards(run, pa.Table.from_pylist(rows, schema=schema))
    return size


def measure_loading(directory: Path, pairs: int, *, rounds: int) -> list[LoadingFigures]:
    """Read all pairs in a new random order each round, every way in turn."""
    shards = directory / "run" / "pairs"
    later = PairDataset(shards)
    for number in range(pairs):
        later.read(number)
    cold: dict[str, list[float]] = {name: [] for name in (SHARDS, AGAIN, FILES)}
    warm: dict[str, list[float]] = {name: [] for name in cold}
    for number in range(rounds):
        order = random.Random(number).sample(range(pairs), pairs)
        for name, found in ((name, kind) for name in cold for kind in (cold, warm)):
            if found is cold:
                _drop_from_cache(directory)
            first = PairDataset(shards) if name == SHARDS else None
            read: _Read = (first or later).read if name != FILES else _file_reader(directory / "files")
            found[name].append(pairs / _seconds(read, order))
    return [LoadingFigures(name=name, cold=tuple(cold[name]), warm=tuple(warm[name])) for name in cold]


def _drop_from_cache(directory: Path) -> None:
    """Ask the system to forget the pages of every file below a directory."""
    for path in directory.rglob("*"):
        if path.is_file():
            with _descriptor(path) as descriptor:
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(read: _Read, order: list[int]) -> float:
    started = time.perf_counter()
    for number in order:
        read(number)
    return time.perf_counter() - started


def _file_reader(folder: Path) -> _Read:
    names = sorted({path.stem.partition("-")[2] for path in folder.iterdir()})
    return lambda number: [torch.load(folder / f"{number}-{name}.pt", weights_only=True) for name in names]


def _tensors(shapes: PairShapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Latents in fp32 as the sampler keeps them, embeddings in bf16 as a text encoder gives them."""
    made = {
        side: torch.randn(shapes.latent, generator=generator) for side in ("winner_latents", "loser_latents")
    }
    made["prompt_embeds"] = torch.randn(shapes.prompt, generator=generator).bfloat16()
    if shapes.image is not None:
        made["image_latents"] = torch.randn(shapes.image, generator=generator)
    return made


def _candidate(run: Run, identity: str, prompt_id: str, shapes: PairShapes) -> Candidate:
    return Candidate(
        candidate_id=identity,
        prompt_id=prompt_id,
        seed=0,
        model="random",
        revision="0",
        num_frames=shapes.num_frames or 1,
        height=1,
        width=1,
        fps=8.0,
        video_uri=run.video_uri(identity),
        latent_uri=run.latent_uri(identity),
        seconds=0.0,
        created_at=utc_now(),
    )


def _row(prompt_id: str) -> dict[str, Any]:
    pair = Pair(
        pair_id=f"pair-{prompt_id}",
        prompt_id=prompt_id,
        scene_id=prompt_id,
        split="train",
        text="random numbers",
        winner_id=f"{prompt_id}-winner",
        loser_id=f"{prompt_id}-loser",
        winner_value=1.0,
        loser_value=0.0,
        gap=1.0,
        reward="none",
        reward_version="0",
        winner_motion=None,
        loser_motion=None,
        model="random",
        revision="0",
    )
    return {name: getattr(pair, name) for name in default_columns("pairs")}


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
