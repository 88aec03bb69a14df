"""The reprojection reward of labelled faulty clips against clean ones, with predicted and with true geometry.

True geometry of a faulty clip is that of the clean one: what a perfect geometry model would say of the scene.
Legend: T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from pipeline.world.clips import WorldPrompt, render_prompt
from pipeline.world.figures.held_out import HeldOut
from pipeline.world.figures.statistics import win_rate
from pipeline.world.figures.table import Cell, FigureTable
from pipeline.world.render import Clip
from pipeline.world.training.figures import area_under_curve, clip_variants
from rewards.geometry import GeometryBackend, Reconstruction, reconstruct_many
from rewards.reprojection import ReprojectionOptions, reprojection_error

MODELS: Final = ("geometry",)
VIEWS: Final = ("others", "all")
_AT_ONCE: Final = 8

# Rewards of a variant at every true clip, NaN where it cannot be scored; by (geometry, views), then variant.
Rewards = dict[tuple[str, str], dict[str, list[float]]]


def reward_of(reconstruction: Reconstruction, views: str) -> float:
    """The reward with default options but for the views, NaN when there is none."""
    value = reprojection_error(reconstruction, ReprojectionOptions(views=views)).value
    return math.nan if value is None else value


def true_reconstruction(frames_THW3: Tensor, clip: Clip) -> Reconstruction:
    """Frames with the depth and the cameras of a rendered clip."""
    return Reconstruction(
        frames_THW3=frames_THW3,
        depth_THW=clip.depth_THW,
        confidence_THW=torch.ones_like(clip.depth_THW),
        intrinsics_T33=clip.intrinsics_T33,
        w2c_T34=clip.w2c_T34,
    )


@torch.no_grad()
def predicted_reconstructions(backend: GeometryBackend, clips: list[Tensor]) -> Iterable[Reconstruction]:
    """Reconstructions of clips of equal shape, a few at a time."""
    for start in range(0, len(clips), _AT_ONCE):
        yield from reconstruct_many(backend, clips[start : start + _AT_ONCE])


def measure(held_out: HeldOut) -> list[FigureTable]:
    """AUC and same-clip win rate per corruption and strength, for both geometries and both kinds of views."""
    rewards: Rewards = {}
    for number, prompt in enumerate(held_out.each("reward", held_out.clip_prompts)):
        _add_clip(rewards, held_out, prompt, number)
    tables = []
    for geometry in ("predicted", "true"):
        tables.append(
            FigureTable(
                subject="reward",
                title=f"Reward with {geometry} geometry: faulty clips against clean ones in the same dress",
                counts={"clips": held_out.clips},
                columns=(
                    "corruption",
                    "strength",
                    *(f"{what} ({views})" for views in VIEWS for what in ("AUC", "win rate")),
                    "not scored",
                ),
                rows=tuple(_rows(rewards, geometry)),
            )
        )
    return [*tables, _floor(rewards, held_out.clips)]


def _add_clip(rewards: Rewards, held_out: HeldOut, prompt: WorldPrompt, number: int) -> None:
    clip = render_prompt(prompt)
    variants = {name: frames.clamp(0, 1) for name, frames in clip_variants(prompt, seed=number).items()}
    frames = list(variants.values())
    predicted = predicted_reconstructions(held_out.geometry, frames)
    true = (true_reconstruction(shown, clip) for shown in frames)
    for name, guess, truth in zip(variants, predicted, true, strict=True):
        for geometry, reconstruction in (("predicted", guess), ("true", truth)):
            for views in VIEWS:
                values = rewards.setdefault((geometry, views), {}).setdefault(name, [])
                values.append(reward_of(reconstruction, views))


def _rows(rewards: Rewards, geometry: str) -> Iterable[tuple[Cell, ...]]:
    for name in rewards[geometry, VIEWS[0]]:
        corruption, _, strength = name.partition("@")
        if strength:
            results = [separation(rewards[geometry, views], name) for views in VIEWS]
            values = (value for area, won, _ in results for value in (area, won))
            yield (corruption, float(strength), *values, max(lost for *_, lost in results))


def separation(rewards: dict[str, list[float]], name: str) -> tuple[float | None, float | None, int]:
    """AUC and same-clip win rate of the clean clips over a variant, and how many clips were left out."""
    clean = torch.tensor(rewards["clean_rewarped" if "rewarped" in name else "clean"], dtype=torch.float64)
    faulty = torch.tensor(rewards[name], dtype=torch.float64)
    scored = clean.isfinite() & faulty.isfinite()
    lost = int((~scored).sum())
    if not bool(scored.any()):
        return None, None, lost
    clean, faulty = clean[scored], faulty[scored]
    return area_under_curve(clean, faulty), win_rate(clean.tolist(), faulty.tolist()), lost


def _floor(rewards: Rewards, clips: int) -> FigureTable:
    rows: list[tuple[Cell, ...]] = []
    for (geometry, views), by_variant in rewards.items():
        means = [
            torch.tensor(by_variant[name]).nanmean().neg().item() for name in ("clean", "clean_rewarped")
        ]
        rows.append((geometry, views, *means))
    return FigureTable(
        subject="reward",
        title="Reward: mean error of clean clips, rendered and moved by coarse flow",
        counts={"clips": clips},
        columns=("geometry", "views", "rendered", "moved"),
        rows=tuple(rows),
    )
