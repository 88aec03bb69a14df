"""Paired comparison of an aligned model with its base: differences per prompt, with bootstrap intervals.

The unit is the prompt. The seeds of a prompt are not independent, nor are trainings on the same pairs: both
are averaged first, and intervals resample prompts alone.
Legend: P prompts, R bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 4000
_LEVEL = 0.95
# Values of a measure by prompt and seed; NaN where nothing could be measured.
Values: TypeAlias = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over prompts and the percentile bootstrap interval (95 %) around it."""

    mean: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether zero lies outside of the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far trainings that differ in their seed lie apart: the least and the greatest of each's mean."""

    trainings: int
    adapter_min: float
    adapter_max: float
    difference_min: float
    difference_max: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure: both means, the paired difference, and how often the adapter is better.

    `win_rate` is the share of prompts whose mean over seeds is better, `clip_win_rate` the share of a
    prompt's seeds whose clip is better, meaned over prompts. Ties count as one half; both are None for a
    measure without a better direction. `share` is the adapter's mean over the base's, None where that means
    nothing. `prompts` and `clips` (prompt and seed, measured on both sides) are how many there are. `spread`
    is that of a group of trainings.
    """

    measure: str
    better: int
    base: float
    adapter: float
    difference: Interval
    share: Interval | None
    win_rate: Interval | None
    clip_win_rate: Interval | None
    prompts: int
    clips: int
    spread: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A prompt's means over seeds and its wins; `clip_wins` is NaN when no seed has a value on both sides."""

    base: float
    adapter: float
    win: float
    clip_wins: float
    clips: int


def bootstrap(values_P: Sequence[float] | NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean of per-prompt values with its 95 % percentile interval; ValueError without values."""
    values = np.asarray(values_P, dtype=np.float64)
    if not len(values):
        raise ValueError("bootstrap needs at least one prompt, got none")
    means_R = values[_resampled(len(values), seed)].mean(axis=1)
    return _interval(float(values.mean()), means_R)


def bootstrap_share(
    values_P: NDArray[np.float64], base_P: NDArray[np.float64], seed: int = 0
) -> Interval | None:
    """The mean of values over the mean of the base's, prompts resampled together.

    None where a resample of the base could be zero or less: a share of that means nothing.
    """
    chosen_RP = _resampled(len(base_P), seed)
    base_R = base_P[chosen_RP].mean(axis=1)
    if not (base_R > 0).all() or not base_P.mean() > 0:
        return None
    return _interval(float(values_P.mean() / base_P.mean()), values_P[chosen_RP].mean(axis=1) / base_R)


def _resampled(prompts: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, prompts, (_RESAMPLES, prompts))


def _interval(mean: float, resampled_R: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled_R, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(mean=mean, low=float(low), high=float(high))


def compare(measure: str, base: Values, adapter: Values, better: int, *, ratio: bool = True) -> Row | None:
    """Compare a measure given by prompt and seed.

    Prompts without a value on both sides are left out; None when no prompt is left. `better` is 1 when higher
    is better, -1 when lower is, 0 when neither; `ratio` is whether a share of the base means anything.
    """
    prompts = _prompts(base, adapter, better)
    return _row(measure, better, prompts, ratio) if prompts else None


def compare_group(
    measure: str, sides: Sequence[tuple[Values, Values]], better: int, *, ratio: bool = True
) -> Row | None:
    """Compare trainings of one kind with the base: (base, adapter) of each.

    Each training is compared for itself, and a prompt's figures are the means over trainings; prompts that
    one of the trainings has no value for are left out. None when no prompt is left.
    """
    each = [_prompts(base, adapter, better) for base, adapter in sides]
    shared = sorted(set.intersection(*(set(one) for one in each)))
    if not shared:
        return None
    each = [{prompt_id: one[prompt_id] for prompt_id in shared} for one in each]
    averaged = {prompt_id: _averaged([one[prompt_id] for one in each]) for prompt_id in shared}
    row = _row(measure, better, averaged, ratio)
    rows = [_row(measure, better, one, ratio) for one in each]
    adapters, differences = [one.adapter for one in rows], [one.difference.mean for one in rows]
    spread = Spread(
        trainings=len(rows),
        adapter_min=min(adapters),
        adapter_max=max(adapters),
        difference_min=min(differences),
        difference_max=max(differences),
    )
    return replace(row, spread=spread)


def keep_moving(base: Values, adapter: Values, threshold: float) -> set[tuple[str, int]]:
    """The clips (prompt and seed) whose motion reaches the threshold on both sides: the rest stands still.

    A clip without a measured motion is not kept.
    """
    return {
        (prompt_id, seed)
        for prompt_id, seeds in base.items()
        for seed, motion in seeds.items()
        if motion >= threshold and adapter.get(prompt_id, {}).get(seed, math.nan) >= threshold
    }


def only(values: Values, kept: Iterable[tuple[str, int]]) -> dict[str, dict[int, float]]:
    """The values of those clips."""
    chosen: dict[str, dict[int, float]] = {}
    for prompt_id, seed in kept:
        if seed in values.get(prompt_id, {}):
            chosen.setdefault(prompt_id, {})[seed] = values[prompt_id][seed]
    return chosen


def _prompts(base: Values, adapter: Values, better: int) -> dict[str, _Prompt]:
    """What is compared of every prompt that has a value on both sides, in the order of their ids."""
    found = {}
    for prompt_id in sorted(base.keys() & adapter.keys()):
        before, after = base[prompt_id], adapter[prompt_id]
        means = _mean(before.values()), _mean(after.values())
        if any(math.isnan(value) for value in means):
            continue
        pairs = [(before[seed], after[seed]) for seed in sorted(before.keys() & after.keys())]
        wins = [_win(better, *pair) for pair in pairs if all(map(math.isfinite, pair))]
        found[prompt_id] = _Prompt(
            base=means[0],
            adapter=means[1],
            win=_win(better, *means),
            clip_wins=_mean(wins),
            clips=len(wins),
        )
    return found


def _win(better: int, base: float, adapter: float) -> float:
    return float(0.5 * (1 + np.sign(better * (adapter - base))))


def _averaged(trainings: Sequence[_Prompt]) -> _Prompt:
    return _Prompt(
        base=_mean([one.base for one in trainings]),
        adapter=_mean([one.adapter for one in trainings]),
        win=_mean([one.win for one in trainings]),
        clip_wins=_mean([one.clip_wins for one in trainings]),
        clips=sum(one.clips for one in trainings),
    )


def _row(measure: str, better: int, prompts: Mapping[str, _Prompt], ratio: bool) -> Row:
    rows = list(prompts.values())
    base_P = np.array([one.base for one in rows])
    adapter_P = np.array([one.adapter for one in rows])
    clip_wins = [one.clip_wins for one in rows if math.isfinite(one.clip_wins)]
    return Row(
        measure=measure,
        better=better,
        base=float(base_P.mean()),
        adapter=float(adapter_P.mean()),
        difference=bootstrap(adapter_P - base_P),
        share=bootstrap_share(adapter_P, base_P) if ratio else None,
        win_rate=bootstrap([one.win for one in rows]) if better else None,
        clip_win_rate=bootstrap(clip_wins) if better and clip_wins else None,
        prompts=len(rows),
        clips=sum(one.clips for one in rows),
    )


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else float("nan")
