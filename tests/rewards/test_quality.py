from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rewards.errors import RewardError
from rewards.measures.quality import detail, image_motion, psnr, roughness, saturation, sharpness, ssim


def texture(height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(F.pad(noise, (2, 2, 2, 2), mode="circular"), 5, stride=1)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return smooth[0].permute(1, 2, 0)


def pan(step: int, frames: int = 4) -> torch.Tensor:
    wall = texture()
    return torch.stack([wall[:, step * t : step * t + 64] for t in range(frames)])


def blur(frames: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(frames.permute(0, 3, 1, 2), 5, stride=1, padding=2).permute(0, 2, 3, 1)


def test_psnr_closed_form() -> None:
    frames = torch.full((2, 8, 8, 3), 0.5)
    assert psnr(frames, frames + 0.1).tolist() == pytest.approx([20.0, 20.0], rel=1e-5)
    assert psnr(frames, frames).isinf().all()


def test_ssim_of_constants_is_the_luminance_term() -> None:
    a, b = 0.2, 0.7
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    got = ssim(torch.full((1, 16, 16, 3), a), torch.full((1, 16, 16, 3), b))
    assert float(got) == pytest.approx(expected, abs=1e-3)
    assert ssim(pan(1), pan(1)).tolist() == pytest.approx([1.0] * 4, abs=1e-5)


def test_ssim_by_the_definition() -> None:
    """Window by window in numpy float64, with the weights written out."""
    a, b = (texture(14, 15, seed).numpy().astype(np.float64) for seed in (1, 2))
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    values = []
    for row, column, channel in np.ndindex(4, 5, 3):
        x, y = (image[row : row + 11, column : column + 11, channel] for image in (a, b))
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
        cov = (weight * (x - mx) * (y - my)).sum()
        values.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    got = ssim(*(torch.from_numpy(image[None]).float() for image in (a, b)))
    assert float(got) == pytest.approx(np.mean(values), abs=1e-4)


def test_ssim_refuses_frames_below_its_window() -> None:
    with pytest.raises(RewardError, match="at least 11x11 pixels, got 10x20"):
        ssim(torch.zeros(1, 10, 20, 3), torch.zeros(1, 10, 20, 3))


def test_detail_falls_by_blur_of_the_whole_clip_which_sharpness_does_not_see() -> None:
    clip = torch.rand(4, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    assert detail(clip / 2) == pytest.approx(detail(clip) / 2, rel=1e-5)
    assert detail(blur(clip)) < 0.7 * detail(clip)
    assert sharpness(blur(clip)) == pytest.approx(sharpness(clip), rel=0.1)
    # Columns of brightness x / 8 on grey: a step of 1/8 to the right, none down, in all but the last of each.
    ramp = (torch.arange(8) / 8).expand(2, 8, 8).unsqueeze(-1).expand(2, 8, 8, 3)
    assert detail(ramp) == pytest.approx(1 / 8)


def test_sharpness_is_relative_to_the_first_frame() -> None:
    clip = pan(0)
    assert sharpness(clip) == pytest.approx(1.0)
    soft = torch.cat([clip[:1], clip[1:] * 0.5 + 0.25])
    assert sharpness(soft) == pytest.approx(0.5, rel=1e-4)
    assert sharpness(torch.cat([clip[:1], blur(clip[1:])])) < 0.7


def test_image_motion_is_pixels_a_frame_on_a_ramp_and_zero_when_still() -> None:
    ramp = torch.linspace(0, 0.5, 65)[None, :, None].expand(32, 65, 3)
    clip = torch.stack([ramp[:, t : t + 60] for t in range(5)])
    assert image_motion(clip) == pytest.approx(1.0, rel=1e-3)
    assert image_motion(pan(0)) == 0.0


def test_roughness_tells_ragged_motion_from_a_pan() -> None:
    smooth = roughness(pan(2))
    assert smooth < 0.1
    assert roughness(pan(0)) == 0.0
    rows = torch.randint(-2, 3, (64,), generator=torch.Generator().manual_seed(1)).repeat_interleave(4)[:64]
    ragged = pan(2).clone()
    for frame in range(1, 4):
        for row, shift in enumerate(rows.tolist()):
            ragged[frame, row] = ragged[frame, row].roll(shift * frame, dims=0)
    assert roughness(ragged) > 5 * smooth + 0.1


def test_roughness_of_a_large_frame_is_measured_on_a_small_one() -> None:
    large = pan(2).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    assert roughness(large) == pytest.approx(roughness(pan(2)), abs=1e-6)


def test_measures_without_a_base_are_nan() -> None:
    flat = torch.full((3, 16, 16, 3), 0.5)
    assert math.isnan(sharpness(flat))
    assert math.isnan(image_motion(flat))
    assert all(math.isnan(measure(flat[:1])) for measure in (sharpness, image_motion, roughness))


def test_saturation_is_that_of_the_standard_library() -> None:
    frames = torch.rand(3, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    means = [
        sum(colorsys.rgb_to_hsv(*pixel)[1] for pixel in frame.reshape(-1, 3).tolist()) / 20
        for frame in frames
    ]
    assert saturation(frames) == pytest.approx((means[1] + means[2]) / 2 / means[0], rel=1e-5)
    grey = frames.mean(dim=-1, keepdim=True).expand(frames.shape)
    assert saturation(torch.cat([frames[:1], grey[1:]])) == pytest.approx(0, abs=1e-5)
    assert math.isnan(saturation(grey))
    assert math.isnan(saturation(frames[:1]))
