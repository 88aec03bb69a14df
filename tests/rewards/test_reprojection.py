from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rewards.errors import RewardError
from rewards.geometry.reconstruction import Reconstruction
from rewards.measures.perceptual import SsimDistance
from rewards.options import ReprojectionOptions
from rewards.reprojection import reprojection_error
from rewards.table import REWARDS, load_reward

SIZE, FRAMES, STEP, DEPTH = 32, 4, 2, 2.0


def plane(drift: int = 0) -> Reconstruction:
    """A wall seen by a camera that moves STEP pixels a frame; `drift` moves the first picture on it."""
    generator = torch.Generator().manual_seed(0)
    wall = torch.rand(SIZE, SIZE + STEP * FRAMES + 8, 3, generator=generator)
    starts = [STEP * t + (drift if t == 0 else 0) for t in range(FRAMES)]
    w2c = torch.eye(4)[:3].repeat(FRAMES, 1, 1)
    w2c[:, 0, 3] = -torch.arange(FRAMES) * STEP * DEPTH / SIZE
    return Reconstruction(
        frames_THW3=torch.stack([wall[:, start : start + SIZE] for start in starts]),
        depth_THW=torch.full((FRAMES, SIZE, SIZE), DEPTH),
        confidence_THW=torch.ones(FRAMES, SIZE, SIZE),
        intrinsics_T33=torch.tensor([[SIZE, 0, 16.0], [0, SIZE, 16], [0, 0, 1]]).repeat(FRAMES, 1, 1),
        w2c_T34=w2c,
    )


def options(**change: object) -> ReprojectionOptions:
    return ReprojectionOptions(**{"hole_penalty": 0.0, **change})


@pytest.mark.parametrize("views", ["all", "others"])
def test_a_perfect_wall_has_no_error(views: str) -> None:
    result = reprojection_error(plane(), options(views=views))
    assert result.value == pytest.approx(0.0, abs=1e-12)
    # Others reach all but the STEP columns that only the last and the first frame see.
    assert result.coverage == pytest.approx(1.0 if views == "all" else 1 - 2 * STEP / SIZE / FRAMES)
    assert result.motion == pytest.approx(STEP / SIZE)


def test_leaving_out_own_points_sees_a_picture_that_drifted() -> None:
    everything = reprojection_error(plane(drift=3), options(views="all"))
    others = reprojection_error(plane(drift=3), options(views="others"))
    # All points lie at one depth and the first frame's are numbered first: it only ever sees itself.
    assert everything.frame_errors[0] == 0.0
    # Independent uniform colours differ by 1/6 in mean square.
    assert others.frame_errors[0] == pytest.approx(1 / 6, rel=0.1)
    assert others.error_maps_THW is not None
    assert float(others.error_maps_THW[0].mean()) > 0.14


def test_holes_are_black_or_masked_with_a_penalty() -> None:
    clip = plane()
    black = reprojection_error(clip, options(holes="black"))
    hole = STEP * SIZE
    first = clip.frames_THW3[0, :, :STEP].square().sum() / (3 * SIZE * SIZE)
    assert black.frame_errors[0] == pytest.approx(float(first), rel=1e-5)
    assert black.images_THW3 is not None
    assert black.images_THW3[0, :, :STEP].abs().max() == 0
    masked = reprojection_error(clip, options(hole_penalty=0.5))
    assert masked.frame_errors == pytest.approx([0.5 * hole / SIZE**2, 0, 0, 0.5 * hole / SIZE**2], abs=1e-7)
    assert masked.mse == pytest.approx(0.0, abs=1e-12)


def test_the_perceptual_term_is_added_with_its_weight() -> None:
    clip = plane(drift=3)
    plain = reprojection_error(clip, options())
    with_ssim = reprojection_error(clip, options(perceptual="ssim", perceptual_weight=0.5), SsimDistance())
    assert with_ssim.perceptual is not None
    assert with_ssim.perceptual > 0.05
    assert plain.value is not None
    assert with_ssim.value == pytest.approx(plain.value - 0.5 * with_ssim.perceptual, rel=1e-5)
    with pytest.raises(ValueError, match="perceptual must be the term 'ssim'"):
        reprojection_error(clip, options(perceptual="ssim"))


def with_value(field: str, value: float) -> Reconstruction:
    tensor = getattr(plane(), field).clone()
    tensor[1].fill_(value)
    return replace(plane(), **{field: tensor})


def away(first: Reconstruction) -> Reconstruction:
    """Every camera looks somewhere else."""
    w2c = first.w2c_T34.clone()
    w2c[:, 0, 3] = torch.arange(FRAMES) * 100.0
    return replace(first, w2c_T34=w2c)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (with_value("depth_THW", float("nan")), "geometry is not finite .depth"),
        (with_value("w2c_T34", float("inf")), "geometry is not finite .w2c"),
        (with_value("intrinsics_T33", 0.0), "focal length is not positive"),
        (replace(plane(), depth_THW=-plane().depth_THW), "no depth is positive"),
        (away(plane()), "no point of another frame lands in any frame"),
    ],
)
def test_what_cannot_be_scored_has_a_reason_and_no_value(clip: Reconstruction, reason: str) -> None:
    result = reprojection_error(clip, options())
    assert result.value is None
    assert result.reason is not None
    assert reason.replace(".", "(") in result.reason


def test_a_frame_that_no_other_sees_is_counted_black_or_refused() -> None:
    clip = plane()
    w2c = clip.w2c_T34.clone()
    w2c[0, 0, 3] = 100.0
    clip = replace(clip, w2c_T34=w2c)
    assert reprojection_error(clip, options()).reason == "no point of another frame lands in frame 0"
    assert reprojection_error(clip, options(holes="black")).value is not None


def test_depth_behind_its_camera_draws_nothing() -> None:
    depth = plane().depth_THW.clone()
    depth[0] = -DEPTH
    clip = replace(plane(), depth_THW=depth)
    result = reprojection_error(clip, options(views="all"))
    assert result.value == pytest.approx(0.0, abs=1e-12)
    assert result.coverage is not None
    assert result.coverage < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": "some"}, "views must be one of all, others, got 'some'"),
        ({"holes": "white"}, "holes must be one of"),
        ({"perceptual": "vmaf"}, "perceptual must be one of"),
        ({"perceptual_weight": -1.0}, "perceptual_weight must be finite and >= 0"),
        ({"hole_penalty": float("nan")}, "hole_penalty must be finite"),
        ({"frames": 1}, "frames must be >= 2"),
    ],
)
def test_options_refuse(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReprojectionOptions(**change)


class Wall:
    name, model, license = "wall", "plane", "none"

    def __init__(self, revision: str = "1") -> None:
        self.revision = revision

    def reconstruct(self, frames_THW3: torch.Tensor) -> Reconstruction:
        return replace(plane(), frames_THW3=frames_THW3)


def test_reward_scores_clips_and_says_why_it_does_not() -> None:
    reward = load_reward("reprojection", geometry=Wall(), options=options())
    good = plane().frames_THW3
    flat = good.clone()
    flat[2] = 0
    results = reward.score_many([good, flat, good[:1], good * float("nan"), plane(drift=3).frames_THW3])
    assert results[0].value == pytest.approx(0.0, abs=1e-12)
    assert results[0].frame_indices == (0, 1, 2, 3)
    assert len(results[0].w2c) == FRAMES * 12
    assert len(results[0].intrinsics) == FRAMES * 9
    assert [result.reason for result in results[1:4]] == [
        "frame 2 of those used is one flat colour",
        "1 frame, at least 2 are needed",
        "frames are not finite",
    ]
    assert all(result.value is None for result in results[1:4])
    assert results[4].value is not None
    assert results[4].value < -0.01


def test_reward_refuses_what_is_not_a_clip() -> None:
    reward = load_reward("reprojection", geometry=Wall())
    with pytest.raises(RewardError, match="frames must be float"):
        reward.score(torch.zeros(4, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(RewardError, match="frames must have shape"):
        reward.score(torch.zeros(4, 3, 8, 8))
    with pytest.raises(RewardError, match="reward 'beauty' does not exist; choose one of: reprojection"):
        load_reward("beauty", geometry=Wall())


def test_version_changes_with_anything_the_value_depends_on() -> None:
    assert {"reprojection", "combined", "random"} <= set(REWARDS)
    versions = [
        load_reward("reprojection", geometry=geometry, options=choice).version
        for geometry, choice in [(Wall(), options()), (Wall("2"), options()), (Wall(), options(views="all"))]
    ]
    assert len(set(versions)) == 3
    assert versions[0] == load_reward("reprojection", geometry=Wall(), options=options()).version
    assert all(version.startswith("1-") for version in versions)
