from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jobs.bench.scoring import rasterisers
from jobs.bench.scoring.candidates import Cloud, CloudSize, make_cloud
from jobs.bench.scoring.rasterisers import PAINTER, measure_rasterisers, paint_views
from jobs.bench.scoring.timing import threads
from rewards.rasterise.zbuffer import splat_views

SMALL = CloudSize(frames=4, views=5, height=24, width=40)


def draw(method: Callable[..., tuple[Tensor, Tensor, Tensor]], cloud: Cloud) -> tuple[Tensor, Tensor, Tensor]:
    return method(
        cloud.points_N3, cloud.colors_N3, cloud.intrinsics_V33, cloud.w2c_V34, cloud.height, cloud.width
    )


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


def test_painter_and_built_in_agree_bit_for_bit_on_one_and_two_threads() -> None:
    # Enough points that torch shares them among its threads.
    cloud = make_cloud(CloudSize(frames=3, views=3, height=120, width=160))
    drawings = []
    for count in (1, 2):
        with threads(count):
            drawings += [draw(paint_views, cloud), draw(splat_views, cloud)]
    for drawing in drawings[1:]:
        assert all(map(same_bits, drawings[0], drawing))


def test_the_cloud_has_ties_covers_its_views_and_hides_points() -> None:
    cloud = make_cloud(SMALL)
    _, depth_VHW, index_VHW = draw(splat_views, cloud)
    assert len(cloud.points_N3) == 4 * 24 * 40
    assert float((index_VHW >= 0).float().mean()) > 0.9
    # Drawn from the last point to the first, ties go to others.
    backwards = Cloud(**{**vars(cloud), "points_N3": cloud.points_N3.flip(0)})
    _, depth_again_VHW, index_again_VHW = draw(splat_views, backwards)
    assert torch.equal(depth_VHW, depth_again_VHW)
    tied_VHW = (index_VHW >= 0) & (index_VHW != len(cloud.points_N3) - 1 - index_again_VHW)
    assert float(tied_VHW.float().mean()) > 0.05


def test_the_painter_takes_a_mask_as_the_built_in_does() -> None:
    cloud = make_cloud(SMALL)
    keep_VN = torch.rand(5, len(cloud.points_N3), generator=torch.Generator().manual_seed(1)) < 0.3
    arguments = cloud.points_N3, cloud.colors_N3, cloud.intrinsics_V33, cloud.w2c_V34, 24, 40, keep_VN
    painted = paint_views(*arguments)
    assert all(map(same_bits, painted, splat_views(*arguments)))
    assert not torch.equal(painted[2], draw(paint_views, cloud)[2])


def test_the_tables_say_who_is_faster_and_what_is_identical() -> None:
    speed, identity = measure_rasterisers(SMALL, repetitions=2)
    names = [row[0] for row in speed.rows]
    assert names[:2] == [PAINTER, "torch"]
    assert speed.rows[0][4:7] == (1.0, 1.0, 1.0)
    assert all(float(row[2]) <= float(row[1]) <= float(row[3]) for row in speed.rows)
    assert speed.counts["points"] == 4 * 24 * 40
    checks = {row[0]: row[1:4] for row in identity.rows}
    assert checks["torch = painter"] == checks["torch, 1 = 2 threads"] == ("yes", 0, 5 * 24 * 40)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_single_pixel_that_differs_is_counted(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drawing = splat_views(*arguments)  # type: ignore[arg-type]
        drawing[part].view(-1)[7] += 1
        return drawing

    monkeypatch.setattr(rasterisers, "installed", lambda: {"torch": wrong})
    _, identity = measure_rasterisers(SMALL, repetitions=1)
    checks = {row[0]: row[1:3] for row in identity.rows}
    assert checks == {"torch = painter": ("no", 1), "torch, 1 = 2 threads": ("yes", 0)}


@pytest.mark.parametrize("field", ["frames", "views", "height", "width"])
def test_an_empty_cloud_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        CloudSize(**{field: 0})
