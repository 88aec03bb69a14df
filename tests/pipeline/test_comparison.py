"""Paired comparison against closed forms and a known coverage of the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluation.comparison import (
    Spread,
    bootstrap,
    bootstrap_share,
    compare,
    compare_group,
    keep_moving,
    only,
)


def test_interval_of_constant_values_is_a_point() -> None:
    interval = bootstrap([2.0] * 7)
    assert (interval.mean, interval.low, interval.high) == (2.0, 2.0, 2.0)


def test_interval_has_the_width_of_the_normal_theory() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap(values)
    expected = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert interval.high - interval.low == pytest.approx(expected, rel=0.08)
    assert interval.low < interval.mean < interval.high


def test_a_share_is_that_of_the_means_and_its_interval_has_the_width_of_the_delta_method() -> None:
    random = np.random.default_rng(3)
    base = random.gamma(9.0, 1.0, 500)
    values = 0.8 * base + random.normal(0, 0.5, 500)
    share = bootstrap_share(values, base)
    assert share is not None
    assert share.mean == pytest.approx(values.mean() / base.mean())
    residual = (values - share.mean * base).std() / base.mean()
    assert share.high - share.low == pytest.approx(2 * 1.96 * residual / math.sqrt(500), rel=0.08)
    whole = bootstrap_share(base, base)
    assert whole is not None
    assert (whole.mean, whole.low, whole.high) == (1.0, 1.0, 1.0), "the doubt about the base is shared"


def test_there_is_no_share_of_a_base_that_may_be_zero() -> None:
    base = np.array([-1.0, 3.0, 1.0])
    assert bootstrap_share(base, base) is None
    row = compare("psnr", seeds(a=[20.0]), seeds(a=[22.0]), better=1, ratio=False)
    assert row is not None
    assert row.share is None


def seeds(**prompts: list[float]) -> dict[str, dict[int, float]]:
    """Values by prompt and seed; a seed is a place in the list."""
    return {name: dict(enumerate(values)) for name, values in prompts.items()}


def test_means_are_over_prompts_not_over_clips() -> None:
    base = seeds(a=[1.0, 1.0, 1.0, 1.0], b=[3.0])
    adapter = seeds(a=[0.0, 0.0, 0.0, 0.0], b=[3.0])
    row = compare("error", base, adapter, better=-1)
    assert row is not None
    assert (row.base, row.adapter, row.difference.mean) == (2.0, 1.5, -0.5)
    assert row.win_rate is not None
    assert row.clip_win_rate is not None
    assert row.win_rate.mean == row.clip_win_rate.mean == 0.75  # one prompt better, one tie
    assert (row.prompts, row.clips) == (2, 5)


def test_a_prompt_can_be_better_though_most_of_its_clips_are_not() -> None:
    base, adapter = seeds(a=[1.0, 1.0, 1.0, 1.0]), seeds(a=[0.9, 0.9, 0.9, 9.0])
    row = compare("x", base, adapter, better=1)
    assert row is not None
    assert row.win_rate is not None
    assert row.clip_win_rate is not None
    assert (row.win_rate.mean, row.clip_win_rate.mean) == (1.0, 0.25)


def test_clips_are_paired_by_seed() -> None:
    base = {"a": {7: 1.0, 8: 2.0, 9: 5.0}}
    adapter = {"a": {8: 2.5, 7: 1.5, 6: 0.0}}
    row = compare("x", base, adapter, better=1)
    assert row is not None
    assert row.clip_win_rate is not None
    assert (row.clip_win_rate.mean, row.clips) == (1.0, 2)


def test_direction_decides_who_wins() -> None:
    base, adapter = seeds(a=[1.0], b=[1.0]), seeds(a=[2.0], b=[3.0])
    higher, lower = compare("x", base, adapter, better=1), compare("x", base, adapter, better=-1)
    assert higher is not None
    assert lower is not None
    assert higher.win_rate is not None
    assert lower.win_rate is not None
    assert (higher.win_rate.mean, lower.win_rate.mean) == (1.0, 0.0)
    neither = compare("x", base, adapter, better=0)
    assert neither is not None
    assert (neither.win_rate, neither.clip_win_rate) == (None, None)


def test_prompts_without_a_value_on_both_sides_are_left_out() -> None:
    nan = float("nan")
    base, adapter = seeds(a=[1.0], b=[nan], c=[5.0]), seeds(a=[2.0], b=[1.0], d=[1.0])
    row = compare("x", base, adapter, better=1)
    assert row is not None
    assert (row.prompts, row.difference.mean) == (1, 1.0)
    assert compare("x", seeds(a=[nan]), seeds(a=[1.0]), better=1) is None


def test_seeds_that_say_the_same_do_not_narrow_the_interval() -> None:
    """The seeds of a prompt are not independent: sixteen copies of a seed are one seed."""
    random = np.random.default_rng(1)
    effects = {f"p{number}": float(value) for number, value in enumerate(random.normal(0.2, 1, 30))}
    rows = []
    for copies in (1, 16):
        base = seeds(**{name: [0.0] * copies for name in effects})
        adapter = seeds(**{name: [value] * copies for name, value in effects.items()})
        rows.append(compare("x", base, adapter, better=1))
    few, many = rows
    assert few is not None
    assert many is not None
    for one, other in ((few.difference, many.difference), (few.clip_win_rate, many.clip_win_rate)):
        assert one is not None
        assert other is not None
        assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=1e-12)


def test_the_interval_over_prompts_holds_the_truth_as_often_as_it_says() -> None:
    """Prompts of their own means and noisy seeds: an interval over clips would cover far less."""
    random, hits = np.random.default_rng(2), 0
    for _ in range(100):
        effects = random.normal(0.5, 1, 40)
        adapter = seeds(
            **{f"p{n}": list(effect + random.normal(0, 0.2, 4)) for n, effect in enumerate(effects)}
        )
        row = compare("x", seeds(**{name: [0.0] * 4 for name in adapter}), adapter, better=1)
        assert row is not None
        hits += row.difference.low <= 0.5 <= row.difference.high
    assert 88 <= hits <= 99


def test_trainings_are_averaged_before_the_prompts_are_resampled() -> None:
    base = seeds(a=[1.0], b=[2.0], c=[3.0])
    first, second = seeds(a=[2.0], b=[2.0], c=[5.0]), seeds(a=[1.0], b=[4.0])
    group = compare_group("x", [(base, first), (base, second)], better=1)
    assert group is not None
    mean = compare("x", seeds(a=[1.0], b=[2.0]), seeds(a=[1.5], b=[3.0]), better=1)
    assert mean is not None
    # Prompt c has no value of the second training.
    assert (group.prompts, group.adapter, group.difference) == (2, mean.adapter, mean.difference)
    assert group.win_rate is not None
    assert group.win_rate.mean == 0.75  # a win and a tie, twice
    assert group.spread == Spread(
        trainings=2, adapter_min=2.0, adapter_max=2.5, difference_min=0.5, difference_max=1.0
    )
    assert compare_group("x", [(base, first), (base, seeds(d=[1.0]))], better=1) is None


def test_the_same_rule_takes_clips_that_stand_still_from_both_sides() -> None:
    base = {"a": {1: 0.5, 2: 0.0, 3: 0.5}, "b": {1: 0.0}}
    adapter = {"a": {1: 0.5, 2: 0.5, 3: 0.1}, "b": {1: 0.9}, "c": {1: 0.9}}
    kept = keep_moving(base, adapter, 0.2)
    assert kept == keep_moving(adapter, base, 0.2) == {("a", 1)}
    assert only(adapter, kept) == {"a": {1: 0.5}}
    assert keep_moving(base, {"a": {1: float("nan")}}, 0.0) == set()


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        bootstrap([])
