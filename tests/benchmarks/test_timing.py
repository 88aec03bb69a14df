from __future__ import annotations

import pytest
import torch

from jobs.bench.scoring import timing
from jobs.bench.scoring.timing import Timing, threads, time_in_turn


def test_work_runs_in_turn_and_warm_up_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def work(name: str, seconds: float) -> None:
        ran.append(name)
        clock[0] += seconds * len(ran)  # later calls take longer

    timings = time_in_turn(
        {"slow": lambda: work("slow", 2.0), "fast": lambda: work("fast", 1.0)}, repetitions=2, warmup=1
    )
    assert ran == ["slow", "fast"] * 3
    assert timings["slow"].seconds == pytest.approx((6.0, 10.0))
    assert timings["fast"].seconds == pytest.approx((4.0, 6.0))
    assert timings["fast"].peak_bytes is None


def test_ratios_are_taken_side_by_side() -> None:
    ours, theirs = Timing(seconds=(1.0, 2.0, 4.0)), Timing(seconds=(3.0, 4.0, 20.0))
    assert ours.median == 2.0
    assert ours.ratio_to(theirs) == (3.0, 2.0, 5.0)


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds must hold at least one repetition"):
        Timing(seconds=())
    with pytest.raises(ValueError, match="repetitions must be >= 1 and warmup >= 0, got 0 and 1"):
        time_in_turn({}, repetitions=0)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(before + 1):
            raise KeyError(torch.get_num_threads())

    with pytest.raises(KeyError, match=str(before + 1)):
        fail()
    assert torch.get_num_threads() == before
