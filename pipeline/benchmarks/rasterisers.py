"""The rasterisers against the painter: how much faster, and whether they draw the same, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from pipeline.benchmarks.clouds import Cloud, CloudSize, make_cloud
from pipeline.benchmarks.painter import paint_views
from pipeline.benchmarks.timing import Timing, threads, time_in_turn
from pipeline.engine.stage import Progress
from pipeline.world.figures.table import Cell, FigureTable
from rewards.errors import RewardError
from rewards.rasterise.rasterisers import RASTERISERS, Rasteriser, find_rasteriser

PAINTER = "painter (argsort)"
BUILT_IN = "torch"
Drawing = tuple[Tensor, Tensor, Tensor]


def measure_rasterisers(
    size: CloudSize, *, repetitions: int, device: str = "cpu", progress: Progress | None = None
) -> tuple[FigureTable, FigureTable]:
    """Seconds of the painter and of every rasteriser that can run, in turn; and what is bit-identical."""
    cloud = make_cloud(size, device)
    methods: dict[str, Rasteriser] = {PAINTER: paint_views, **installed()}
    drawings: dict[str, Drawing] = {}

    def draw(name: str) -> Callable[[], None]:
        def run() -> None:
            drawings[name] = _draw(methods[name], cloud)

        return run

    timings = time_in_turn(
        {name: draw(name) for name in methods}, repetitions=repetitions, device=device, progress=progress
    )
    checks = {f"{name} = painter": (drawings[name], drawings[PAINTER]) for name in methods if name != PAINTER}
    checks.update(_repeated(cloud))
    counts = {**asdict(size), "points": len(cloud.points_N3), "repetitions": repetitions}
    return _speed(timings, counts), _identity(checks, counts)


def installed() -> dict[str, Rasteriser]:
    """The rasterisers that can run here."""
    found = {}
    for name in RASTERISERS:
        try:
            found[name] = find_rasteriser(name)
        except RewardError:
            continue
    return found


def _draw(method: Rasteriser, cloud: Cloud) -> Drawing:
    return method(
        cloud.points_N3, cloud.colors_N3, cloud.intrinsics_V33, cloud.w2c_V34, cloud.height, cloud.width
    )


def _repeated(cloud: Cloud) -> dict[str, tuple[Drawing, Drawing]]:
    """The built-in rasteriser on one and two threads; on a GPU, there twice and on a CPU."""
    method = find_rasteriser(BUILT_IN)
    if cloud.points_N3.is_cuda:
        first, again = _draw(method, cloud), _draw(method, cloud)
        image_VHW3, depth_VHW, index_VHW = first
        fetched = image_VHW3.cpu(), depth_VHW.cpu(), index_VHW.cpu()
        return {
            "torch, run twice": (first, again),
            "torch, GPU = CPU": (fetched, _draw(method, cloud.to("cpu"))),
        }
    drawn = []
    for count in (1, 2):
        with threads(count):
            drawn.append(_draw(method, cloud))
    return {"torch, 1 = 2 threads": (drawn[0], drawn[1])}


def _speed(timings: dict[str, Timing], counts: dict[str, int]) -> FigureTable:
    rows: list[tuple[Cell, ...]] = []
    for name, timing in timings.items():
        peak = None if timing.peak_bytes is None else timing.peak_bytes / 2**20
        spread = (timing.median, min(timing.seconds), max(timing.seconds))
        rows.append((name, *spread, *timing.ratio_to(timings[PAINTER]), peak))
    return FigureTable(
        subject="rasterisers",
        title="Rasterisers on one cloud",
        counts=counts,
        columns=("rasteriser", "median s", "min s", "max s", "times faster", "min", "max", "peak MiB"),
        rows=tuple(rows),
    )


def _identity(checks: dict[str, tuple[Drawing, Drawing]], counts: dict[str, int]) -> FigureTable:
    rows: list[tuple[Cell, ...]] = []
    for name, (one, other) in checks.items():
        differs_VHW = _differs(one, other)
        count, covered = int(differs_VHW.sum()), float((one[2] >= 0).to(torch.float32).mean())
        rows.append((name, "no" if count else "yes", count, differs_VHW.numel(), covered))
    return FigureTable(
        subject="identity",
        title="Do they draw the same, bit for bit?",
        counts=counts,
        columns=("check", "identical", "pixels that differ", "of", "covered"),
        rows=tuple(rows),
    )


def _differs(one: Drawing, other: Drawing) -> Tensor:
    """Where image, depth or index differ in any bit, V,H,W."""
    image_VHW = (one[0].view(torch.int32) != other[0].view(torch.int32)).any(dim=-1)
    depth_VHW = one[1].view(torch.int32) != other[1].view(torch.int32)
    return image_VHW | depth_VHW | (one[2] != other[2])
