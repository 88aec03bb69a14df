"""From measured steps to figures: pairs a second, memory, and the share of what the machine can multiply."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import torch

from trainer.benchmarks.variants import CACHED, Variant, Workload
from trainer.benchmarks.workers import Measured
from trainer.cost import CostSettings, step_cost
from trainer.setup import DTYPES


@dataclass(frozen=True, kw_only=True)
class VariantFigures:
    """One variant: medians over rounds; ratios are taken round by round against the first variant.

    `share` is that of the matrix product ceiling, counting what the variant must compute and not what
    gradient checkpointing repeats.
    """

    name: str
    micro: int
    seconds: float
    pairs_per_second: float
    faster: float
    faster_low: float
    faster_high: float
    peak_bytes: int
    memory: float
    share: float


def figures(
    workload: Workload, variants: list[Variant], measured: Mapping[str, Measured], ceiling: float
) -> list[VariantFigures]:
    """The figures of every variant, the first being what the others are compared with."""
    first = measured[variants[0].name]
    flops = {cached: _flops(workload, cached=cached) for cached in (False, True)}
    rows = []
    for variant in variants:
        found = measured[variant.name]
        ratios = [theirs / ours for ours, theirs in zip(found.seconds, first.seconds, strict=True)]
        rate = workload.pairs / median(found.seconds)
        rows.append(
            VariantFigures(
                name=variant.name,
                micro=variant.micro,
                seconds=median(found.seconds),
                pairs_per_second=rate,
                faster=median(ratios),
                faster_low=min(ratios),
                faster_high=max(ratios),
                peak_bytes=found.peak_bytes,
                memory=found.peak_bytes / first.peak_bytes,
                share=rate * flops[variant.kind == CACHED] / ceiling,
            )
        )
    return rows


def matmul_ceiling(precision: str, device: str, threads: int) -> float:
    """FLOP a second of a large matrix product in this precision: the best of a few."""
    where, before = torch.device(device), torch.get_num_threads()
    size = 8192 if where.type == "cuda" else 1536
    left = torch.randn(size, size, device=where).to(DTYPES[precision])
    torch.set_num_threads(threads)
    try:
        best = min(_seconds(left) for _ in range(5))
    finally:
        torch.set_num_threads(before)
    return 2.0 * size**3 / best


def _seconds(left: torch.Tensor) -> float:
    if left.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    left @ left
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _flops(workload: Workload, *, cached: bool) -> float:
    settings = CostSettings(
        objective="dpo",
        batch_size=1,
        rank=workload.rank,
        alpha=2 * workload.rank,
        dtype=DTYPES[workload.precision],
        gradient_checkpointing=False,
        together=True,
        cached_reference=cached,
    )
    return step_cost(workload.shell(), workload.shapes, settings).flops_per_pair
