"""Paired comparison against closed forms and a known coverage of the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.comparison import bootstrap, compare


def test_interval_of_constant_values_is_a_point() -> None:
    interval = bootstrap([2.0] * 7)
    assert (interval.mean, interval.low, interval.high) == (2.0, 2.0, 2.0)


def test_interval_has_the_width_of_the_normal_theory() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap(values)
    expected = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert interval.high - interval.low == pytest.approx(expected, rel=0.08)
    assert interval.low < interval.mean < interval.high


def test_means_are_over_prompts_not_over_clips() -> None:
    base = {"a": [1.0, 1.0, 1.0, 1.0], "b": [3.0]}
    adapter = {"a": [0.0, 0.0, 0.0, 0.0], "b": [3.0]}
    row = compare("error", base, adapter, better=-1)
    assert row is not None
    assert (row.base, row.adapter, row.difference.mean) == (2.0, 1.5, -0.5)
    assert row.win_rate is not None
    assert row.win_rate.mean == 0.75  # one prompt better, one tie


def test_direction_decides_who_wins() -> None:
    base, adapter = {"a": [1.0], "b": [1.0]}, {"a": [2.0], "b": [3.0]}
    higher, lower = compare("x", base, adapter, better=1), compare("x", base, adapter, better=-1)
    assert higher is not None
    assert lower is not None
    assert higher.win_rate is not None
    assert lower.win_rate is not None
    assert (higher.win_rate.mean, lower.win_rate.mean) == (1.0, 0.0)
    neither = compare("x", base, adapter, better=0)
    assert neither is not None
    assert neither.win_rate is None


def test_prompts_without_a_value_on_both_sides_are_left_out() -> None:
    nan = float("nan")
    row = compare("x", {"a": [1.0], "b": [nan], "c": [5.0]}, {"a": [2.0], "b": [1.0], "d": [1.0]}, better=1)
    assert row is not None
    assert (row.prompts, row.difference.mean) == (1, 1.0)
    assert compare("x", {"a": [nan]}, {"a": [1.0]}, better=1) is None


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        bootstrap([])
