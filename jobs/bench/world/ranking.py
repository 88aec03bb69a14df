"""The study, on samples: does a reward order the seeds of a prompt as a referee does that it never sees?

Legend: P prompts, S seeds, T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from jobs.bench.world.generator import CLEAN, FAULTY
from jobs.bench.world.held_out import FAMILIES, HeldOut
from jobs.bench.world.study import DEFAULT, Study, passes, reconstruct_some, spearman, win_rate
from jobs.figure_tables import Cell, FigureTable
from pipeline.evaluation.comparison import bootstrap

_GUARDED: Final = f"{DEFAULT}, guarded"


def measure(held_out: HeldOut) -> list[FigureTable]:
    """Spearman of error and fault probability within prompts, and a win rate, for every base model.

    The win rate is the share of prompts whose lowest-error sample is less faulty than the highest-error one.
    """
    return [_of_family(held_out, family) for family in FAMILIES]


def _of_family(held_out: HeldOut, family: str) -> FigureTable:
    study = Study(geometry=held_out.geometry)
    samples_PSTHW3, referee = held_out.samples(family), held_out.referee_of(family)
    errors: dict[str, list[list[float]]] = defaultdict(list)
    faults: list[list[float]] = []
    for samples_STHW3 in held_out.each(f"ranking {family}", samples_PSTHW3):
        clips = [clip.float() / 255 for clip in samples_STHW3]
        faults.append(referee.judge(samples_STHW3.float() / 255).probability_B.tolist())
        rows = [
            study.errors(one, study.picture_errors(clip))
            for one, clip in zip(reconstruct_some(held_out.geometry, clips), clips, strict=True)
        ]
        for name in study.names:
            errors[name].append([found[name] for found, _ in rows])
        kept = [passes(default, held_out.guards) for _, default in rows]
        guarded = zip(errors[DEFAULT][-1], kept, strict=True)
        errors[_GUARDED].append([error if ok else math.nan for error, ok in guarded])
    mixed = sum(min(row) < CLEAN and max(row) > FAULTY for row in faults) / len(faults)
    figures: list[tuple[Cell, ...]] = []
    for name in (*study.names, _GUARDED):
        agreed = agreement(errors[name], faults)
        figures.append((name, *agreed["Spearman"][:3], *agreed["win rate"][:3], agreed["win rate"][3]))
    return FigureTable(
        subject="ranking",
        title=f"Ranking of samples with faults of {family} ({mixed:.2f} of the prompts have both kinds)",
        counts={"prompts": held_out.prompts, "seeds": held_out.seeds},
        columns=("reward", "Spearman", "low", "high", "best over worst", " low", " high", "prompts"),
        rows=tuple(figures),
    )


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
