"""How well the referee tells faulty clips from clean ones, and reads the camera move."""

from __future__ import annotations

from typing import Final

from jobs.bench.world.held_out import HeldOut
from jobs.figure_tables import Cell, FigureTable
from pipeline.world.training.figures import referee_figures

MODELS: Final = ("referee",)


def measure(held_out: HeldOut) -> list[FigureTable]:
    """AUC of the fault logit per corruption and strength; move accuracy and false alarms of clean clips."""
    held_out.progress.start("referee", held_out.clips, 0)
    figures = referee_figures(held_out.referee_of(), held_out.clip_prompts)
    held_out.progress.advance(held_out.clips, 0)
    held_out.progress.stop()
    faults: list[tuple[Cell, ...]] = []
    clean: list[tuple[Cell, ...]] = []
    for key, value in figures.items():
        kind, _, variant = key.partition(".")
        if kind == "auc":
            name, _, strength = variant.partition("@")
            faults.append((name, float(strength), value, figures[f"share_above_half.{variant}"]))
        elif kind == "move_accuracy":
            clean.append((variant, value, figures[f"share_above_half.{variant}"]))
    counts = {"clips": held_out.clips}
    return [
        FigureTable(
            subject="referee",
            title="Referee: faulty clips against clean ones in the same dress",
            counts=counts,
            columns=("corruption", "strength", "AUC", "called faulty"),
            rows=tuple(faults),
        ),
        FigureTable(
            subject="referee",
            title="Referee: clean clips",
            counts=counts,
            columns=("clips", "move accuracy", "called faulty"),
            rows=tuple(clean),
        ),
    ]
