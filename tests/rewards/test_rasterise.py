from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.rasterise.zbuffer import backproject, splat, splat_views


def painter(points, colors, intrinsics, w2c, height, width, keep=None):
    """The oracle: draw from far to near, and among equals the later index first, so that the lowest stays."""
    matrix = (intrinsics.astype(np.float64) @ w2c.astype(np.float64)).astype(np.float32)
    x, y, z = ((points[:, 0] * r[0] + points[:, 1] * r[1]) + points[:, 2] * r[2] + r[3] for r in matrix)
    with np.errstate(all="ignore"):
        u, v = np.floor(x / z + np.float32(0.5)), np.floor(y / z + np.float32(0.5))
        drawn = (z > 0) & np.isfinite(z) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    if keep is not None:
        drawn &= keep
    number = np.flatnonzero(drawn)
    order = number[np.lexsort((-number, -z[number]))]
    index = np.full((height, width), -1, dtype=np.int64)
    depth = np.full((height, width), np.inf, dtype=np.float32)
    image = np.zeros((height, width, 3), dtype=np.float32)
    for point in order:
        row, column = int(v[point]), int(u[point])
        index[row, column], depth[row, column], image[row, column] = point, z[point], colors[point]
    return image, depth, index


def rotation(generator: np.random.Generator, size: float) -> np.ndarray:
    q, _ = np.linalg.qr(np.eye(3) + size * generator.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def scene(seed: int, count: int, views: int = 1):
    generator = np.random.default_rng(seed)
    # Coordinates on a coarse grid make equal depths and equal pixels frequent.
    points = (np.round(generator.normal(size=(count, 3)) * 4) / 4).astype(np.float32)
    points[:, 2] += 2
    colors = generator.random((count, 3)).astype(np.float32)
    intrinsics = np.stack([np.array([[9, 0, 6.5], [0, 8, 4.5], [0, 0, 1]], np.float32)] * views)
    w2c = np.zeros((views, 3, 4), np.float32)
    for view in range(views):
        w2c[view, :, :3] = np.eye(3) if view == 0 else rotation(generator, 0.2)
        w2c[view, :, 3] = 0 if view == 0 else generator.normal(size=3) * 0.3
    return points, colors, intrinsics, w2c


def as_tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 400), views=st.integers(1, 4))
def test_agrees_with_the_painter(seed: int, count: int, views: int) -> None:
    points, colors, intrinsics, w2c = scene(seed, count, views)
    keep = np.random.default_rng(seed + 1).random((views, count)) < 0.8
    image, depth, index = splat_views(
        *as_tensors(points, colors, intrinsics, w2c), 10, 14, torch.from_numpy(keep)
    )
    for view in range(views):
        expected = painter(points, colors, intrinsics[view], w2c[view], 10, 14, keep[view])
        for got, want in zip((image[view], depth[view], index[view]), expected, strict=True):
            assert np.array_equal(got.numpy(), want)


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_blocks_do_not_show(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = as_tensors(*scene(3, 300, 3))
    expected = splat_views(*tensors, 10, 14)
    monkeypatch.setattr("rewards.rasterise.zbuffer._BLOCK_CPU", block)
    assert all(map(torch.equal, expected, splat_views(*tensors, 10, 14)))


def test_one_and_two_threads_agree_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = 2 + torch.rand(4, 120, 161, generator=generator)
    intrinsics = torch.tensor([[130.0, 0, 80], [0, 130, 60], [0, 0, 1]]).repeat(4, 1, 1)
    w2c = torch.from_numpy(scene(5, 1, 4)[3]) * torch.tensor([1, 1, 1, 0.2])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            points = backproject(depth, intrinsics, w2c).view(-1, 3)
            results.append((points, *splat_views(points, points.abs(), intrinsics, w2c, 120, 161)))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, results[0], results[1]))
    assert (results[0][3] >= 0).float().mean() > 0.5


def test_nearest_wins_and_ties_go_to_the_lowest_index() -> None:
    points = torch.tensor([[0, 0, 2.0], [0, 0, 1.0], [0, 0, 1.0], [0, 0, -1.0], [0, 0, 0.0], [50.0, 0, 1.0]])
    colors = torch.arange(18.0).view(6, 3)
    image, depth, index = splat(points, colors, torch.eye(3), torch.eye(4)[:3], 1, 2)
    assert index.tolist() == [[1, -1]]
    assert depth.tolist() == [[1.0, float("inf")]]
    assert torch.equal(image[0, 0], colors[1])
    assert torch.equal(image[0, 1], torch.zeros(3))


def test_halves_round_up_so_that_a_shift_leaves_no_holes() -> None:
    points = torch.tensor([[u + 0.5, 0.0, 1.0] for u in range(-1, 6)])
    index = splat(points, torch.zeros(7, 3), torch.eye(3), torch.eye(4)[:3], 1, 7)[2]
    assert index.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_what_is_not_finite_is_not_drawn() -> None:
    bad = float("nan"), float("inf"), -float("inf")
    points = torch.tensor([[x, y, z] for x in (0.0, *bad) for y in (0.0, *bad) for z in (1.0, *bad)])
    index = splat(points, torch.zeros(len(points), 3), torch.eye(3), torch.eye(4)[:3], 2, 2)[2]
    assert index.tolist() == [[0, -1], [-1, -1]]


def test_a_cloud_per_view_equals_a_splat_per_view() -> None:
    points, colors, intrinsics, w2c = as_tensors(*scene(8, 200, 2))
    clouds, paints = torch.stack([points, points + 0.1]), torch.stack([colors, 1 - colors])
    together = splat_views(clouds, paints, intrinsics, w2c, 10, 14)
    for view in range(2):
        alone = splat(clouds[view], paints[view], intrinsics[view], w2c[view], 10, 14)
        assert all(torch.equal(got[view], want) for got, want in zip(together, alone, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points_N3": torch.rand(5, 2)}, "points must have shape"),
        ({"colors_N3": torch.rand(4, 3)}, "colors must have shape"),
        ({"w2c_V34": torch.eye(4)[None]}, "cameras must be"),
        ({"keep_VN": torch.ones(1, 5)}, "keep_VN must be bool"),
        ({"height": 0}, "height x width must be"),
    ],
)
def test_wrong_shapes_are_named(change: dict[str, object], message: str) -> None:
    arguments = {
        "points_N3": torch.rand(5, 3),
        "colors_N3": torch.rand(5, 3),
        "intrinsics_V33": torch.eye(3)[None],
        "w2c_V34": torch.eye(4)[None, :3],
        "height": 4,
        "width": 4,
    }
    with pytest.raises(ValueError, match=message):
        splat_views(**{**arguments, **change})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_back_projection_then_projection_is_the_identity(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = 11, 17
    depth = torch.from_numpy(generator.uniform(0.5, 5, (1, height, width)).astype(np.float32))
    intrinsics = torch.tensor([[[12.0, 0.3, 8.2], [0, 13, 5.1], [0, 0, 1]]])
    pose = np.concatenate([rotation(generator, 1.0), generator.normal(size=(3, 1))], axis=1)
    w2c = torch.from_numpy(pose.astype(np.float32))[None]
    points = backproject(depth, intrinsics, w2c).view(-1, 3)
    _, drawn, index = splat(points, points, intrinsics[0], w2c[0], height, width)
    assert torch.equal(index.flatten(), torch.arange(height * width))
    assert torch.allclose(drawn, depth[0], rtol=1e-5)


def test_back_projection_matches_the_formula() -> None:
    generator = np.random.default_rng(0)
    depth = generator.uniform(1, 2, (2, 3, 4))
    intrinsics = np.array([[5, 0, 1.5], [0, 6, 1], [0, 0, 1.0]])
    w2c = np.stack([np.c_[rotation(generator, 1.0), generator.normal(size=3)] for _ in range(2)])
    points = backproject(
        *as_tensors(*(a.astype(np.float32) for a in (depth, np.stack([intrinsics] * 2), w2c)))
    )
    for t, v, u in np.ndindex(2, 3, 4):
        camera = depth[t, v, u] * np.linalg.solve(intrinsics, [u, v, 1])
        assert np.allclose(points[t, v, u].numpy(), w2c[t, :, :3].T @ (camera - w2c[t, :, 3]), atol=1e-5)
