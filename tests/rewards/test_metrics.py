"""Figures beside a reward, against closed forms and the true geometry of the embedded world."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pipeline.world.clips import render_prompt, world_prompts
from rewards.errors import RewardError
from rewards.geometry.reconstruction import Reconstruction
from rewards.measures.quality import ssim
from rewards.metrics import (
    consistency_3d,
    multi_view_consistency,
    reprojection_psnr,
    reprojection_ssim,
)
from rewards.options import ReprojectionOptions
from rewards.reprojection import reprojection_error


def wall(depth: float = 2.0, frames: int = 3) -> Reconstruction:
    """A wall at one depth, seen by a camera that stands still."""
    depth_THW = torch.full((frames, 16, 16), depth)
    return Reconstruction(
        frames_THW3=torch.rand(frames, 16, 16, 3, generator=torch.Generator().manual_seed(0)),
        depth_THW=depth_THW,
        confidence_THW=torch.ones_like(depth_THW),
        intrinsics_T33=torch.tensor([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]).repeat(frames, 1, 1),
        w2c_T34=torch.eye(3, 4).repeat(frames, 1, 1),
    )


def test_depth_maps_that_differ_by_a_step_have_the_closed_form() -> None:
    assert multi_view_consistency(wall()) == pytest.approx(1)
    stepped = wall()
    stepped.depth_THW[1] += 0.3
    # Both adjacent pairs differ by .3; the median depth stays 2.
    assert multi_view_consistency(stepped) == pytest.approx(math.exp(-(0.3**2) / 2**2), rel=1e-5)
    assert multi_view_consistency(stepped, normalised=False) == pytest.approx(math.exp(-(0.3**2)), rel=1e-5)


def test_normalised_it_has_no_unit_of_length() -> None:
    one, ten = wall(), wall(20.0)
    one.depth_THW[1] += 0.3
    ten.depth_THW[1] += 3.0
    assert multi_view_consistency(one) == pytest.approx(multi_view_consistency(ten), rel=1e-5)
    assert multi_view_consistency(one, normalised=False) > 2 * multi_view_consistency(ten, normalised=False)


@pytest.mark.parametrize("number", [0, 3, 5, 8])
def test_true_geometry_is_consistent_and_a_wrong_pose_is_not(number: int) -> None:
    clip = render_prompt(world_prompts("test", 10)[number])
    true = Reconstruction(
        frames_THW3=clip.frames_THW3,
        depth_THW=clip.depth_THW,
        confidence_THW=torch.ones_like(clip.depth_THW),
        intrinsics_T33=clip.intrinsics_T33,
        w2c_T34=clip.w2c_T34,
    )
    moved = clip.w2c_T34.clone()
    moved[1::2, 2, 3] += 0.8
    found = multi_view_consistency(true)
    assert found > 0.97
    assert multi_view_consistency(replace(true, w2c_T34=moved)) < found - 0.02


def test_what_cannot_be_compared_is_not_a_number() -> None:
    assert math.isnan(multi_view_consistency(wall(frames=1)))
    assert math.isnan(multi_view_consistency(wall(-1.0)))


def test_fidelity_looks_only_where_a_point_lands() -> None:
    frames = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    images = frames.clone()
    images[:, :16] = (frames[:, :16] * 0.8 + 0.1).clamp(0, 1)
    everywhere = torch.ones(2, 32, 32, dtype=torch.bool)
    lower = everywhere.clone()
    lower[:, :16] = False
    mse = (images - frames).square().mean(dim=(1, 2, 3))
    assert reprojection_psnr(images, frames, everywhere) == pytest.approx(float(-10 * mse.log10().mean()))
    assert reprojection_psnr(images, frames, lower) == math.inf
    assert reprojection_ssim(images, frames, everywhere) == pytest.approx(
        float(ssim(images, frames).mean()), rel=1e-4
    )
    assert reprojection_ssim(images, frames, lower) == pytest.approx(1)
    assert math.isnan(reprojection_psnr(images, frames, ~everywhere))
    assert math.isnan(reprojection_ssim(images[:, :8], frames[:, :8], everywhere[:, :8]))


class Still:
    """A backend of walls: another judge than the one that rewarded."""

    name, model, revision, license = "still", "still", "1", "none"

    def reconstruct(self, frames_THW3: torch.Tensor) -> Reconstruction:
        return replace(wall(frames=len(frames_THW3)), frames_THW3=frames_THW3)


def test_3dcs_is_the_reprojection_error_by_the_backend_that_is_given() -> None:
    clip = wall(frames=9).frames_THW3
    options = ReprojectionOptions(frames=3, photometric="l1")
    found = consistency_3d(clip, Still(), options)
    expected = reprojection_error(Still().reconstruct(clip[[0, 4, 8]]), options)
    assert found.value is not None
    assert found.value == expected.value < 0
    assert len(consistency_3d(clip, Still()).frame_errors) == 9
    with pytest.raises(RewardError, match="frames must be float"):
        consistency_3d((clip * 255).byte(), Still())
