"""From measured steps to figures: pairs a second, memory, and the share of what the machine can multiply."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from jobs.bench.training.variants import CACHED, Variant, Workload, prepare
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


_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of each round, peak bytes above what the process had before the model, losses of the rounds."""

    seconds: tuple[float, ...]
    peak_bytes: int
    losses: tuple[float, ...]


def measure(
    workload: Workload,
    variants: list[Variant],
    *,
    rounds: int,
    threads: int,
    progress: Callable[[], None] = lambda: None,
) -> Mapping[str, Measured]:
    """Take `rounds` steps of every variant in turn, after one to warm up.

    On a GPU one variant after the other, since not all may fit at once. Raises RuntimeError with what a
    process said when it failed.
    """
    if torch.device(workload.device).type == "cuda":
        found: dict[str, Measured] = {}
        for variant in variants:
            found |= _in_turn(workload, [variant], rounds, threads, progress)
        return found
    return _in_turn(workload, variants, rounds, threads, progress)


def _in_turn(
    workload: Workload, variants: list[Variant], rounds: int, threads: int, progress: Callable[[], None]
) -> dict[str, Measured]:
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for variant in variants:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, workload, variant, threads), daemon=True)
            process.start()
            theirs.close()
            pipes[variant.name] = ours
            processes.append(process)
            _answer(ours)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in pipes}
        for number in range(1 + rounds):
            for name, pipe in pipes.items():
                pipe.send("step")
                answer = _answer(pipe)
                if number:
                    taken[name].append(answer)
                progress()
        peaks = {}
        for name, pipe in pipes.items():
            pipe.send("peak")
            peaks[name] = int(_answer(pipe))
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join(timeout=30)
            process.kill()
    return {
        name: Measured(
            seconds=tuple(seconds for seconds, _ in steps),
            losses=tuple(loss for _, loss in steps),
            peak_bytes=peaks[name],
        )
        for name, steps in taken.items()
    }


def _answer(pipe: Connection) -> Any:
    try:
        kind, value = pipe.recv()
    except EOFError as error:
        raise RuntimeError("a process of the benchmark died (out of memory?): lower --pairs") from error
    if kind == "error":
        raise RuntimeError(value)
    return value


def _serve(pipe: Connection, workload: Workload, variant: Variant, threads: int) -> None:
    torch.set_num_threads(threads)
    cuda = torch.device(workload.device).type == "cuda"
    try:
        before = _start(cuda)
        step = prepare(workload, variant)
        pipe.send(("ready", None))
        while (asked := pipe.recv()) != "peak":
            assert asked == "step"
            started = time.perf_counter()
            loss = step()
            if cuda:
                torch.cuda.synchronize()
            pipe.send(("step", (time.perf_counter() - started, loss)))
        pipe.send(("peak", torch.cuda.max_memory_allocated() if cuda else _peak_resident() - before))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - told to the process that waits for it
        pipe.send(("error", f"{variant.name}: {type(error).__name__}: {error}"))


def _start(cuda: bool) -> int:
    """Bytes of this process now, with libraries loaded and warm but nothing of the model."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return 0
    torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def _peak_resident() -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} tells no peak of memory (VmHWM): run the benchmark on Linux")
