"""Whether the reward orders the samples of a prompt as the referee, which it never sees, does.

Legend: P prompts, S seeds, T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pipeline.comparison import bootstrap
from pipeline.world.figures.generator import CLEAN, FAULTY, fault_and_follow
from pipeline.world.figures.held_out import HeldOut
from pipeline.world.figures.reward import VIEWS, predicted_reconstructions, reward_of
from pipeline.world.figures.statistics import spearman, win_rate
from pipeline.world.figures.table import Cell, FigureTable

MODELS: Final = ("generator", "geometry", "referee")


def measure(held_out: HeldOut) -> list[FigureTable]:
    """Spearman of error and fault probability within prompts, and a win rate.

    The win rate is the share of prompts whose lowest-error sample is less faulty than the highest-error one.
    """
    faults = fault_and_follow(held_out)[0].tolist()
    errors: dict[str, list[list[float]]] = {views: [] for views in VIEWS}
    for samples_STHW3 in held_out.each("ranking", held_out.samples_PSTHW3):
        clips = [clip.float() / 255 for clip in samples_STHW3]
        reconstructions = list(predicted_reconstructions(held_out.geometry, clips))
        for views in VIEWS:
            errors[views].append([-reward_of(one, views) for one in reconstructions])
    mixed = [number for number, row in enumerate(faults) if min(row) < CLEAN and max(row) > FAULTY]
    rows: list[tuple[Cell, ...]] = []
    for views in VIEWS:
        for name, kept in (("all", range(len(faults))), ("with clean and faulty samples", mixed)):
            chosen = [[source[number] for number in kept] for source in (errors[views], faults)]
            for figure, interval in agreement(*chosen).items():
                rows.append((name, views, figure, *interval))
    return [
        FigureTable(
            subject="ranking",
            title="Ranking: error against fault probability within prompts, 95 % bootstrap over prompts",
            counts={"prompts": held_out.prompts, "seeds": held_out.seeds},
            columns=("prompts", "views", "figure", "value", "low", "high", "measured"),
            rows=tuple(rows),
        )
    ]


def agreement(
    errors: Sequence[Sequence[float]], faults: Sequence[Sequence[float]]
) -> dict[str, tuple[Cell, ...]]:
    """Mean Spearman and the share of prompts that the lowest error wins: value, interval, number of prompts.

    Samples without an error are left out, and prompts where fewer than two remain.
    """
    correlations, wins = [], []
    for error_S, fault_S in zip(errors, faults, strict=True):
        pairs = sorted(
            (error, fault) for error, fault in zip(error_S, fault_S, strict=True) if math.isfinite(error)
        )
        if len(pairs) < 2:
            continue
        correlation = spearman([error for error, _ in pairs], [fault for _, fault in pairs])
        if correlation is not None:
            correlations.append(correlation)
        wins.append(win_rate([pairs[-1][1]], [pairs[0][1]]))
    return {"Spearman": _interval(correlations), "win rate": _interval(wins)}


def _interval(values: list[float]) -> tuple[Cell, ...]:
    if not values:
        return None, None, None, 0
    interval = bootstrap(values)
    return interval.mean, interval.low, interval.high, len(values)
