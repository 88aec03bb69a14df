"""The Sampson distance against a closed form, OpenCV and the true cameras of the embedded world."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.render import Clip
from rewards.matching.epipolar_geometry import epipolar_distance, fundamental_from_cameras, sampson_distance
from rewards.rasterise.zbuffer import backproject

INTRINSICS = torch.tensor([[50.0, 0, 31.5], [0, 50, 31.5], [0, 0, 1]])


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Tensor:
    w2c = torch.eye(3, 4)
    w2c[:, 3] = -torch.tensor([x, y, z])
    return w2c


def test_a_step_off_the_line_counts_half_its_square() -> None:
    # Cameras side by side: epipolar lines are rows, and both pictures share the displacement.
    fundamental = fundamental_from_cameras(moved(), moved(x=0.3), INTRINSICS, INTRINSICS)
    first = torch.tensor([[10.0, 20.0], [40.0, 5.0], [33.0, 50.0]])
    along, across = torch.tensor([[-4.0, 0.0]]), torch.tensor([[0.0, 0.8]])
    assert sampson_distance(fundamental, first, first + along).tolist() == pytest.approx([1e-4] * 3)
    off = sampson_distance(fundamental, first, first + along + across)
    assert off.tolist() == pytest.approx([0.8 / 2**0.5] * 3, rel=1e-6)
    assert torch.allclose(sampson_distance(7 * fundamental, first, first + along + across), off)


def test_it_is_the_root_of_what_opencv_computes() -> None:
    generator = torch.Generator().manual_seed(0)
    fundamental = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    first, second = (64 * torch.rand(20, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = [
        cv2.sampsonDistance(np.append(a, 1.0), np.append(b, 1.0), fundamental.numpy())
        for a, b in zip(first.numpy(), second.numpy(), strict=True)
    ]
    assert sampson_distance(fundamental, first, second).square().tolist() == pytest.approx(expected, rel=1e-5)


def true_matches(number: int, first: int, second: int) -> tuple[Clip, Tensor, Tensor]:
    """A clip and pixels of one frame with the places of their points in another, by true depth and poses."""
    clip = render_prompt(world_prompts("test", 10)[number])
    points = backproject(clip.depth_THW, clip.intrinsics_T33, clip.w2c_T34)[first, 4::8, 4::8].reshape(-1, 3)
    seen = points @ clip.w2c_T34[second, :, :3].T + clip.w2c_T34[second, :, 3]
    there = seen @ clip.intrinsics_T33[second].T
    rows, columns = torch.meshgrid(torch.arange(4, 64, 8), torch.arange(4, 64, 8), indexing="ij")
    return clip, torch.stack([columns, rows], -1).reshape(-1, 2).float(), there[:, :2] / there[:, 2:]


@pytest.mark.parametrize("number", range(10))
def test_true_matches_lie_where_true_cameras_allow(number: int) -> None:
    first, second = 0, 8
    clip, here, there = true_matches(number, first, second)
    cameras = (clip.w2c_T34[first], clip.w2c_T34[second], clip.intrinsics_T33[0], clip.intrinsics_T33[0])
    depth = float(clip.depth_THW[first].median())
    assert epipolar_distance(*cameras, here, there, depth).max() < 2e-3
    generator = torch.Generator().manual_seed(number)
    angle = 2 * math.pi * torch.rand(len(here), generator=generator)
    off = there + torch.stack([angle.cos(), angle.sin()], -1)
    # The mean over steps in every direction, which is what turning cameras are given as well.
    assert epipolar_distance(*cameras, here, off, depth).mean() == pytest.approx(2**0.5 / math.pi, rel=0.15)


def test_a_turn_without_a_step_measures_the_distance_to_the_pixels_place() -> None:
    turned = moved()
    angle = 0.1
    turned[:, :3] = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )
    here = torch.tensor([[31.5, 31.5]])
    there = torch.tensor([[31.5 + 50 * math.tan(angle), 31.5]])
    cameras = (moved(), turned, INTRINSICS, INTRINSICS)
    assert fundamental_from_cameras(*cameras).abs().max() == 0
    assert epipolar_distance(*cameras, here, there, 2.0).item() == pytest.approx(1e-4, rel=1e-2)
    off = epipolar_distance(*cameras, here, there + torch.tensor([[0.6, 0.8]]), 2.0)
    assert off.item() == pytest.approx(2**0.5 / math.pi, rel=1e-6)
