"""The built-in rasteriser against PyTorch3D's and against the obvious way, a painter that sorts.

Shape legend: N points, V views, H height, W width, P pixels (H*W), D points drawn into one view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from jobs.bench.scoring.candidates import Cloud, CloudSize, make_cloud
from jobs.bench.scoring.timing import Timing, threads, time_in_turn
from jobs.figure_tables import Cell, FigureTable
from pipeline.engine.stage import Progress
from rewards.errors import RewardError
from rewards.rasterise.rasterisers import BUILT_IN, RASTERISERS, Rasteriser, find_rasteriser
from rewards.rasterise.zbuffer import project, projection


@torch.no_grad()
def paint_views(
    points_N3: Tensor,
    colors_N3: Tensor,
    intrinsics_V33: Tensor,
    w2c_V34: Tensor,
    height: int,
    width: int,
    keep_VN: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `rewards.rasterise.zbuffer.splat_views` draws, painted: image_VHW3, depth_VHW, index_VHW.

    The projection is shared, so that both see the same pixels and depths and only visibility is compared. One
    cloud for all views. Deterministic: the sort is stable over points in reverse, so that of equal depths the
    lowest index is painted last, and only numbers of points are painted, colours are looked up at the end.
    """
    points_13N = points_N3.float().t().contiguous()[None]
    projection_V34 = projection(intrinsics_V33, w2c_V34)
    image_VHW3 = colors_N3.new_zeros(len(w2c_V34), height, width, 3)
    depth_VHW = torch.full((len(w2c_V34), height, width), torch.inf, device=points_13N.device)
    index_VHW = torch.full(depth_VHW.shape, -1, dtype=torch.int64, device=points_13N.device)
    for view in range(len(w2c_V34)):
        keep_1N = None if keep_VN is None else keep_VN[view, None]
        u_1N, v_1N, z_1N, drawn_1N = project(points_13N, projection_V34[view, None], height, width, keep_1N)
        number_D = drawn_1N[0].nonzero().flatten().flip(0)
        number_D = number_D[z_1N[0, number_D].argsort(descending=True, stable=True)]
        pixel_D = v_1N[0, number_D].long() * width + u_1N[0, number_D].long()
        index_P = _paint(index_VHW[view].view(-1), pixel_D, number_D)
        hit_P = index_P >= 0
        image_VHW3[view].view(-1, 3)[hit_P] = colors_N3[index_P[hit_P]]
        depth_VHW[view].view(-1)[hit_P] = z_1N[0, index_P[hit_P]]
    return image_VHW3, depth_VHW, index_VHW


def _paint(index_P: Tensor, pixel_D: Tensor, number_D: Tensor) -> Tensor:
    """Write numbers into pixels in order, in place: the last of a pixel stays.

    With repeated pixels torch keeps the order on one CPU thread only and NumPy always; on a GPU the last is
    found as the highest place in the order.
    """
    if not index_P.is_cuda:
        index_P.numpy()[pixel_D.numpy()] = number_D.numpy()
        return index_P
    place_D = torch.arange(len(pixel_D), device=pixel_D.device)
    last_P = torch.full_like(index_P, -1).scatter_reduce_(0, pixel_D, place_D, "amax")
    painted_P = last_P >= 0
    index_P[painted_P] = number_D[last_P[painted_P]]
    return index_P


PAINTER = "painter (argsort)"
_Drawing = tuple[Tensor, Tensor, Tensor]


def measure_rasterisers(
    size: CloudSize, *, repetitions: int, device: str = "cpu", progress: Progress | None = None
) -> tuple[FigureTable, FigureTable]:
    """Seconds of the painter and of every rasteriser that can run, in turn; and what is bit-identical."""
    cloud = make_cloud(size, device)
    methods: dict[str, Rasteriser] = {PAINTER: paint_views, **installed()}
    drawings: dict[str, _Drawing] = {}

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


def _draw(method: Rasteriser, cloud: Cloud) -> _Drawing:
    return method(
        cloud.points_N3, cloud.colors_N3, cloud.intrinsics_V33, cloud.w2c_V34, cloud.height, cloud.width
    )


def _repeated(cloud: Cloud) -> dict[str, tuple[_Drawing, _Drawing]]:
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


def _identity(checks: dict[str, tuple[_Drawing, _Drawing]], counts: dict[str, int]) -> FigureTable:
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


def _differs(one: _Drawing, other: _Drawing) -> Tensor:
    """Where image, depth or index differ in any bit, V,H,W."""
    image_VHW = (one[0].view(torch.int32) != other[0].view(torch.int32)).any(dim=-1)
    depth_VHW = one[1].view(torch.int32) != other[1].view(torch.int32)
    return image_VHW | depth_VHW | (one[2] != other[2])
