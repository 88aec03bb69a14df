"""What scoring one candidate costs, stage by stage.

Shape legend: T frames that are used, H height, W width, P pixels of a frame (H*W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from jobs.bench.scoring.candidates import (
    ClipSize,
    RandomLpips,
    load_geometry,
    load_perceptual_or_random,
    write_clip,
)
from jobs.bench.scoring.timing import Timing, time_in_turn
from jobs.figure_tables import Cell, FigureTable
from pipeline.engine.stage import Progress
from pipeline.scoring.settings import RewardSettings
from rewards.geometry.reconstruction import GeometryBackend, Reconstruction, select_frames
from rewards.measures.perceptual import Perceptual
from rewards.rasterise.rasterisers import AUTO, choose_rasteriser, find_rasteriser
from rewards.rasterise.zbuffer import backproject
from rewards.table import Reward, load_reward
from storage.errors import UserError
from storage.media.video import read_video

WHOLE = "end to end"
REST = "rest"


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """The clip, and the reward as `gpa score` takes it; see `load_geometry` for the model `random`."""

    clip: ClipSize
    reward: RewardSettings

    @property
    def perceptual(self) -> str:
        """The perceptual term that the reward's options name."""
        return str(self.reward.reward_options().perceptual)


def measure_stages(
    settings: StageSettings, *, repetitions: int, device: str = "cpu", progress: Progress | None = None
) -> FigureTable:
    """Seconds of every stage of one candidate and their share of the whole, measured in turn.

    The whole is what a worker of `gpa score` does with a video; "rest" is what of it no stage covers. Raises
    RewardError for a model that cannot be loaded, UserError for a clip that cannot be scored.
    """
    chosen = settings.reward
    geometry = load_geometry(chosen.geometry, chosen.geometry_model, chosen.geometry_revision, device)
    perceptual = load_perceptual_or_random(settings.perceptual, device)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, settings.clip)
        work = _stages(path, geometry, perceptual, settings, device)
        timings = time_in_turn(work, repetitions=repetitions, device=device, progress=progress)
    named = f"{geometry.model}, perceptual {perceptual.name if perceptual else 'none'}"
    return FigureTable(
        subject="stages",
        title=f"Scoring one candidate by {chosen.reward}: {named}",
        counts={**asdict(settings.clip), "repetitions": repetitions},
        columns=("stage", "median s", "min s", "max s", "share %", "peak MiB"),
        rows=tuple(_rows(timings)),
    )


def _stages(
    path: Path,
    geometry: GeometryBackend,
    perceptual: Perceptual | None,
    settings: StageSettings,
    device: str,
) -> dict[str, Callable[[], Any]]:
    options = settings.reward.reward_options()
    reward, extra = _reward(geometry, perceptual, settings, device)
    used = select_frames(settings.clip.frames, options.frames)
    frames_THW3 = _decode(path)[used].to(device)
    seen = geometry.reconstruct(frames_THW3)
    points_N3 = _points(seen).view(-1, 3)
    keep_TN = _keep(seen.num_frames, seen.depth_THW[0].numel(), device) if options.views == "others" else None
    drawn_by = choose_rasteriser(device).name if options.rasteriser == AUTO else options.rasteriser
    rasterise = find_rasteriser(drawn_by)
    cameras = seen.intrinsics_T33, seen.w2c_T34, *seen.size
    colors_N3 = seen.frames_THW3.reshape(-1, 3)
    images_THW3 = rasterise(points_N3, colors_N3, *cameras, keep_TN)[0]

    def whole() -> None:
        result = reward.score(_decode(path))
        if result.value is None:
            raise UserError(
                f"the clip cannot be scored ({result.reason}): give other sizes or another geometry"
            )
        if extra is not None:
            extra(images_THW3, seen.frames_THW3)

    work: dict[str, Callable[[], Any]] = {
        "decode": lambda: _decode(path),
        "geometry": lambda: geometry.reconstruct(frames_THW3),
        "back-projection": lambda: _points(seen),
        f"rasteriser ({drawn_by})": lambda: rasterise(points_N3, colors_N3, *cameras, keep_TN),
    }
    if perceptual is not None:
        work[f"perceptual ({perceptual.name})"] = lambda: perceptual(images_THW3, seen.frames_THW3)
    return {**work, WHOLE: whole}


def _reward(
    geometry: GeometryBackend, perceptual: Perceptual | None, settings: StageSettings, device: str
) -> tuple[Reward, Perceptual | None]:
    """The reward, and a perceptual term that it cannot load itself: random weights, run after it."""
    options = settings.reward.reward_options()
    extra = perceptual if isinstance(perceptual, RandomLpips) else None
    if extra is not None:
        options = replace(options, perceptual="none")
    reward = load_reward(settings.reward.reward, geometry=geometry, options=options, device=device)
    return reward, extra


def _decode(path: Path) -> Tensor:
    return torch.from_numpy(read_video(path)).float() / 255


def _points(seen: Reconstruction) -> Tensor:
    return backproject(seen.depth_THW, seen.intrinsics_T33, seen.w2c_T34)


def _keep(frames: int, pixels: int, device: str) -> Tensor:
    """Every frame without its own points, T,N."""
    others_TT = ~torch.eye(frames, dtype=torch.bool, device=device)
    return others_TT[:, :, None].expand(-1, -1, pixels).reshape(frames, -1)


def _rows(timings: dict[str, Timing]) -> list[tuple[Cell, ...]]:
    """A row a stage with its share of the whole, then the rest and the whole.

    The rest is taken in every round. It can fall below 0, where stages run faster within the whole.
    """
    stages = {name: timing for name, timing in timings.items() if name != WHOLE}
    rounds = zip(*(timing.seconds for timing in stages.values()), strict=True)
    rest = [whole - sum(parts) for whole, parts in zip(timings[WHOLE].seconds, rounds, strict=True)]
    shown = {**stages, REST: Timing(seconds=tuple(rest)), WHOLE: timings[WHOLE]}
    rows: list[tuple[Cell, ...]] = []
    for name, timing in shown.items():
        peak = None if timing.peak_bytes is None else timing.peak_bytes / 2**20
        spread = (timing.median, min(timing.seconds), max(timing.seconds))
        rows.append((name, *spread, 100 * timing.median / timings[WHOLE].median, peak))
    return rows
