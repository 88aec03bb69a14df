"""Rank statistics of small samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def win_rate(better: Sequence[float], worse: Sequence[float]) -> float:
    """Share of positions at which `better` is higher, ties counting half."""
    difference = np.asarray(better, dtype=np.float64) - np.asarray(worse, dtype=np.float64)
    return float((0.5 * (1 + np.sign(difference))).mean())


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1, tied values sharing the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    below = (array[:, None] > array[None]).sum(axis=1)
    tied = (array[:, None] == array[None]).sum(axis=1)
    shared: NDArray[np.float64] = below + (tied + 1) / 2
    return shared


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where one side has a single value, and no order to speak of."""
    left, right = ranks(first), ranks(second)
    left, right = left - left.mean(), right - right.mean()
    size = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / size) if size else None
