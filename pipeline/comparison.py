"""Paired comparison of an aligned model with its base: differences per prompt, with bootstrap intervals.

Legend: P prompts, R bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
_LEVEL = 0.95


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
class Row:
    """One measure: both means, the paired difference, and how often a prompt is better with the adapter.

    `win_rate` counts ties as one half and is None for a measure without a better direction.
    """

    measure: str
    base: float
    adapter: float
    difference: Interval
    win_rate: Interval | None
    prompts: int


def bootstrap(values_P: Sequence[float] | NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean of per-prompt values with its 95 % percentile interval; ValueError without values."""
    values = np.asarray(values_P, dtype=np.float64)
    if not len(values):
        raise ValueError("bootstrap needs at least one prompt, got none")
    generator = np.random.default_rng(seed)
    means_R = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means_R, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def compare(
    measure: str, base: Mapping[str, Sequence[float]], adapter: Mapping[str, Sequence[float]], better: int
) -> Row | None:
    """Compare a measure given per prompt, a value per seed.

    Prompts without a value on both sides are left out; None when no prompt is left. `better` is 1 when higher
    is better, -1 when lower is, 0 when neither.
    """
    means = {}
    for prompt_id in sorted(base.keys() & adapter.keys()):
        pair = (_mean(base[prompt_id]), _mean(adapter[prompt_id]))
        if not any(math.isnan(value) for value in pair):
            means[prompt_id] = pair
    if not means:
        return None
    base_P, adapter_P = np.array(list(means.values())).T
    difference_P = adapter_P - base_P
    wins_P = 0.5 * (1 + np.sign(better * difference_P))
    return Row(
        measure=measure,
        base=float(base_P.mean()),
        adapter=float(adapter_P.mean()),
        difference=bootstrap(difference_P),
        win_rate=bootstrap(wins_P) if better else None,
        prompts=len(means),
    )


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else float("nan")
