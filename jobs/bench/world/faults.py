"""The study, on labelled faults: which reward prefers a true clip to the same clip with a fault.

True geometry of a faulty clip is that of the clean one: what a perfect geometry model would say of the scene.
Legend: T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Final

import torch
from torch import Tensor

from jobs.bench.world.held_out import HeldOut
from jobs.bench.world.networks import area_under_curve, clip_variants
from jobs.bench.world.study import DEFAULT, Study, passes, reconstruct_some, win_rate
from jobs.figure_tables import Cell, FigureTable
from pipeline.world.clips import WorldPrompt, render_prompt
from pipeline.world.render import Clip
from rewards.geometry.reconstruction import Reconstruction

_GEOMETRIES: Final = ("predicted", "true")
MEDIUM: Final = {
    "warp@1.5": "warp",
    "warp_rewarped@1.5": "decoded",
    "texture_drift@3": "drift",
    "moving_boxes@0.3": "boxes",
    "deforming_boxes@0.3": "deform",
    "jitter@0.75": "jitter",
    "frozen@1": "frozen",
    "blur@1": "blur",
}

# Errors of a clip variant at every true clip (NaN where there is none), by geometry and reward.
_Errors = dict[tuple[str, str], dict[str, list[float]]]


def true_reconstruction(frames_THW3: Tensor, clip: Clip) -> Reconstruction:
    """Frames with the depth and the cameras of a rendered clip."""
    return Reconstruction(
        frames_THW3=frames_THW3,
        depth_THW=clip.depth_THW,
        confidence_THW=torch.ones_like(clip.depth_THW),
        intrinsics_T33=clip.intrinsics_T33,
        w2c_T34=clip.w2c_T34,
    )


def measure(held_out: HeldOut) -> list[FigureTable]:
    """AUC and same-clip win rate of every reward per fault, and what the guards of pairing add."""
    study = Study(geometry=held_out.geometry)
    errors: _Errors = defaultdict(lambda: defaultdict(list))
    passed: dict[str, list[bool]] = defaultdict(list)
    for number, prompt in enumerate(held_out.each("faults", held_out.clip_prompts)):
        _add_clip(errors, passed, study, held_out, prompt, number)
    tables = []
    for geometry in _GEOMETRIES:
        for column, title in ((0, "AUC"), (1, "share of clips that beat their faulty copy")):
            tables.append(_medium(errors, study, geometry, column, title, held_out.clips))
    return [*tables, _guarded(errors, passed, held_out), _detail(errors, study, held_out.clips)]


def _add_clip(
    errors: _Errors,
    passed: dict[str, list[bool]],
    study: Study,
    held_out: HeldOut,
    prompt: WorldPrompt,
    number: int,
) -> None:
    clip = render_prompt(prompt)
    variants = {name: frames.clamp(0, 1) for name, frames in clip_variants(prompt, seed=number).items()}
    frames = list(variants.values())
    by_geometry = {
        "predicted": reconstruct_some(held_out.geometry, frames),
        "true": [true_reconstruction(shown, clip) for shown in frames],
    }
    pictures = [study.picture_errors(shown) for shown in frames]
    for geometry, reconstructions in by_geometry.items():
        for name, reconstruction, picture in zip(variants, reconstructions, pictures, strict=True):
            found, default = study.errors(reconstruction, picture)
            for reward, error in found.items():
                errors[geometry, reward][name].append(error)
            if geometry == "predicted":
                passed[name].append(passes(default, held_out.guards))


def _clean_of(name: str) -> str:
    """The clean clips in the dress of a variant."""
    return "clean_rewarped" if "rewarped" in name else "clean"


def separation(errors: dict[str, list[float]], name: str) -> tuple[float | None, float | None, int]:
    """AUC and same-clip win rate of the clean clips over a variant, and how many clips were left out."""
    clean = torch.tensor(errors[_clean_of(name)], dtype=torch.float64)
    faulty = torch.tensor(errors[name], dtype=torch.float64)
    scored = clean.isfinite() & faulty.isfinite()
    lost = int((~scored).sum())
    if not bool(scored.any()):
        return None, None, lost
    clean, faulty = clean[scored], faulty[scored]
    return area_under_curve(faulty, clean), win_rate(faulty.tolist(), clean.tolist()), lost


def _medium(errors: _Errors, study: Study, geometry: str, column: int, title: str, clips: int) -> FigureTable:
    rows: list[tuple[Cell, ...]] = [
        (reward, *(separation(errors[geometry, reward], name)[column] for name in MEDIUM))
        for reward in study.names
    ]
    return FigureTable(
        subject="faults",
        title=f"Rewards with {geometry} geometry, faults of medium strength: {title}",
        counts={"clips": clips},
        columns=("reward", *MEDIUM.values()),
        rows=tuple(rows),
    )


def _guarded(errors: _Errors, passed: dict[str, list[bool]], held_out: HeldOut) -> FigureTable:
    """What becomes of clips when pairing asks for motion, sharpness and coverage, with the default reward."""
    by_name = errors["predicted", DEFAULT]
    rows: list[tuple[Cell, ...]] = []
    for name, kept in passed.items():
        clean = zip(by_name[_clean_of(name)], passed[_clean_of(name)], strict=True)
        outcomes = [
            not ok or (was_kept and error > true_error)
            for ok, error, (true_error, was_kept) in zip(kept, by_name[name], clean, strict=True)
        ]
        rejected = 1 - sum(kept) / len(kept)
        loses = None if name.startswith("clean") else sum(outcomes) / len(outcomes)
        rows.append((name, rejected, loses))
    asked = ", ".join(f"{name.removeprefix('min_')} >= {bound:g}" for name, bound in held_out.guards.items())
    return FigureTable(
        subject="faults",
        title=f"Guards of pairing ({asked or 'none'}) with the reward {DEFAULT}, predicted geometry",
        counts={"clips": held_out.clips},
        columns=("clips", "rejected", "rejected or below its true clip"),
        rows=tuple(rows),
    )


def _detail(errors: _Errors, study: Study, clips: int) -> FigureTable:
    rows: list[tuple[Cell, ...]] = []
    for geometry in _GEOMETRIES:
        for reward in study.names:
            by_name = errors[geometry, reward]
            for name in by_name:
                corruption, _, strength = name.partition("@")
                if strength:
                    found = separation(by_name, name)
                    rows.append((geometry, reward, corruption, float(strength), *found, _mean(by_name[name])))
                else:
                    rows.append((geometry, reward, name, None, None, None, 0, _mean(by_name[name])))
    return FigureTable(
        subject="faults",
        title="Rewards at every strength",
        counts={"clips": clips},
        columns=("geometry", "reward", "corruption", "strength", "AUC", "win rate", "not scored", "error"),
        rows=tuple(rows),
        detail=True,
    )


def _mean(values: list[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
