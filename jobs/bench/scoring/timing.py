"""Timing alternatives against each other: warmed up, in turn, with the spread told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from pipeline.engine.stage import Progress, Silent


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of every repetition in order; peak_bytes of GPU memory, None on a CPU."""

    seconds: tuple[float, ...]
    peak_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("seconds must hold at least one repetition, got none")

    @property
    def median(self) -> float:
        """Median in seconds."""
        return median(self.seconds)

    def ratio_to(self, other: Timing) -> tuple[float, float, float]:
        """How many times faster than `other`: median, lowest and highest over repetitions side by side."""
        ratios = [theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)]
        return median(ratios), min(ratios), max(ratios)


def time_in_turn(
    work: Mapping[str, Callable[[], Any]],
    *,
    repetitions: int,
    warmup: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Run every piece of work once a repetition, in order, so that a busy machine slows all of them alike.

    Warm-up rounds are not counted. On a GPU its queue is emptied before each clock is read, and peak memory
    is that of the work alone, above what lay there before.
    """
    if repetitions < 1 or warmup < 0:
        raise ValueError(
            f"repetitions must be >= 1 and warmup >= 0, got {repetitions} and {warmup}; raise them"
        )
    seconds: dict[str, list[float]] = {name: [] for name in work}
    peaks: dict[str, int] = {}
    shown = progress or Silent()
    shown.start("rounds", warmup + repetitions, 0)
    try:
        for number in range(warmup + repetitions):
            for name, run in work.items():
                took, peak = _once(run, device)
                if number >= warmup:
                    seconds[name].append(took)
                if peak is not None:
                    peaks[name] = max(peak, peaks.get(name, 0))
            shown.advance(1, 0)
    finally:
        shown.stop()
    return {name: Timing(seconds=tuple(seconds[name]), peak_bytes=peaks.get(name)) for name in work}


def _once(run: Callable[[], Any], device: str) -> tuple[float, int | None]:
    on_gpu = torch.device(device).type == "cuda"
    before = 0
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    started = time.perf_counter()
    result = run()
    if on_gpu:
        torch.cuda.synchronize(device)
    took = time.perf_counter() - started
    del result
    return took, torch.cuda.max_memory_allocated(device) - before if on_gpu else None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
