"""Small videos for tests of importing: random texture in motion, and layouts of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.importing.settings import ImportSettings
from pipeline.sampling.settings import SamplerSettings
from storage.media.foreign_video import VideoLimits
from storage.media.pictures import write_image
from storage.media.video import write_video
from storage.run import Run
from tests.pipeline.tiny import SAMPLER

LIMITS = VideoLimits(max_pixels=64 * 64, max_frames=32, max_seconds=8)


def frames(seed: int = 0, count: int = 9, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """A window that moves over a soft texture."""
    texture = np.random.default_rng(seed).random((height + count, width + count, 3))
    for axis in (0, 1):
        texture = (texture + np.roll(texture, 1, axis) + np.roll(texture, 2, axis)) / 3
    moved = [texture[t : t + height, t : t + width] for t in range(count)]
    return (np.stack(moved) * 255).round().astype(np.uint8)


def clip(path: Path, seed: int = 0, fps: float = 8, **size: int) -> Path:
    """Write a video; another seed is another video."""
    write_video(path, frames(seed, **size), fps)
    return path


def folder(root: Path, prompts: int = 2, seeds: int = 2, *, first_frames: bool = True) -> Path:
    """PROMPT/SEED.mp4 with first frames; all videos differ."""
    for number in range(prompts):
        place = root / f"a quiet hall {number}"
        for seed in range(seeds):
            clip(place / f"{seed}.mp4", seed=10 * number + seed)
        if first_frames:
            write_image(place / "first_frame.png", frames(10 * number)[0])
    return root


def settings(source: Path, model: Path | None = None, **changes: Any) -> ImportSettings:
    given: dict[str, Any] = {"limits": LIMITS, "sampler": SamplerSettings(**SAMPLER)} | changes
    return ImportSettings(source=source, model=None if model is None else str(model), **given)


def rows(run: Run, table: str = "candidates") -> list[dict[str, Any]]:
    return list(run.rows(table).to_pylist())


def rejected(run: Run) -> dict[str, tuple[str, str]]:
    """Rule and reason of what was refused, by its id."""
    return {row["id"]: (row["rule"], row["detail"]) for row in rows(run, "rejects")}


def patch(path: Path, box: bytes, offset: int, *numbers: int) -> Path:
    """Overwrite 32-bit numbers so many bytes behind the name of every box of that kind."""
    data = bytearray(path.read_bytes())
    at = data.find(box)
    assert at >= 0
    while at >= 0:
        data[at + offset : at + offset + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)
        at = data.find(box, at + 1)
    path.write_bytes(data)
    return path
