"""Picture measures that need no geometry: fidelity (PSNR, SSIM), sharpness, motion in the image, roughness.

Shape legend: T frames, H height, W width, S shifts tried by block matching. Frames are float in [0,1].

Shape legend: T frames, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.errors import RewardError

SSIM_WINDOW = 11
_SIGMA = 1.5
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2
_LUMA = (0.299, 0.587, 0.114)
_TINY = 1e-6
_REACH = 4  # block matching: largest shift tried, in pixels of the reduced frame
_PATCH = 5
_SHORT_SIDE = 64


def psnr(frames_THW3: Tensor, reference_THW3: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per frame in dB, T; inf for equal frames."""
    mse_T = (frames_THW3 - reference_THW3).square().mean(dim=(1, 2, 3))
    return -10.0 * mse_T.log10()


def ssim(frames_THW3: Tensor, reference_THW3: Tensor) -> Tensor:
    """Structural similarity per frame, T (Wang et al. 2004): the mean of `ssim_map`."""
    return ssim_map(frames_THW3, reference_THW3).mean(dim=(1, 2))


def ssim_map(frames_THW3: Tensor, reference_THW3: Tensor) -> Tensor:
    """Structural similarity around every pixel whose window lies inside the frame, T,H-10,W-10.

    Constants of Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, C1 .01^2, C2 .03^2. Averaged over
    channels. Raises RewardError when a side is shorter than the window.
    """
    height, width = frames_THW3.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise RewardError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {height}x{width}"
        )
    return torch.stack([_ssim(a, b) for a, b in zip(frames_THW3, reference_THW3, strict=True)])


def _ssim(frame_HW3: Tensor, reference_HW3: Tensor) -> Tensor:
    a, b = frame_HW3.permute(2, 0, 1), reference_HW3.permute(2, 0, 1)
    moments = _gaussian(torch.cat([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = moments.chunk(5)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _SSIM_C1) / (mean_a.square() + mean_b.square() + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)
    similarity: Tensor = luminance * structure
    return similarity.mean(dim=0)


def _gaussian(planes: Tensor) -> Tensor:
    """Separable Gaussian window over the last two dimensions, only where it fits.

    Shifted sums: on a CPU several times faster than a convolution with one channel.
    """
    squares = [(tap - SSIM_WINDOW // 2) ** 2 for tap in range(SSIM_WINDOW)]
    heights = [math.exp(-square / (2 * _SIGMA**2)) for square in squares]
    weights = [height / sum(heights) for height in heights]
    for dim in (-2, -1):
        size = planes.shape[dim] - SSIM_WINDOW + 1
        total = planes.narrow(dim, 0, size) * weights[0]
        for tap, weight in enumerate(weights[1:], start=1):
            total.add_(planes.narrow(dim, tap, size), alpha=weight)
        planes = total
    return planes


def _luminance(frames_THW3: Tensor) -> Tensor:
    return frames_THW3 @ frames_THW3.new_tensor(_LUMA)


def _gradient(frames_THW3: Tensor) -> Tensor:
    """Mean gradient magnitude of the luminance per frame, T, per pixel (forward differences)."""
    luma_THW = _luminance(frames_THW3)
    right = luma_THW[:, :-1, 1:] - luma_THW[:, :-1, :-1]
    down = luma_THW[:, 1:, :-1] - luma_THW[:, :-1, :-1]
    return (right.square() + down.square()).sqrt().mean(dim=(1, 2))


def detail(frames_THW3: Tensor) -> float:
    """Mean gradient magnitude of all frames, per pixel: how much of a scene can be seen.

    It compares videos of one scene and size: one that is compressed or blurred throughout has less of it,
    and the same `sharpness`.
    """
    return float(_gradient(frames_THW3).mean())


def sharpness(frames_THW3: Tensor) -> float:
    """Mean gradient magnitude of frames 2.. as a share of the first frame's: less than 1 is blur.

    NaN for a single frame and for a first frame without any gradient.
    """
    gradient_T = _gradient(frames_THW3)
    if gradient_T.shape[0] < 2 or gradient_T[0] < _TINY:
        return float("nan")
    return float(gradient_T[1:].mean() / gradient_T[0])


def saturation(frames_THW3: Tensor) -> float:
    """Mean colour saturation of frames 2.. as a share of the first frame's: less than 1 is faded.

    That of HSV, (max - min) / max over the channels, 0 for black. NaN for a single frame and for a first
    frame without any colour.
    """
    high_THW, low_THW = frames_THW3.amax(dim=-1), frames_THW3.amin(dim=-1)
    saturation_T = ((high_THW - low_THW) / high_THW.clamp_min(_TINY)).mean(dim=(1, 2))
    if saturation_T.shape[0] < 2 or saturation_T[0] < _TINY:
        return float("nan")
    return float(saturation_T[1:].mean() / saturation_T[0])


def image_motion(frames_THW3: Tensor) -> float:
    """Mean absolute change between adjacent frames over the mean gradient of the first frame.

    Roughly the displacement in pixels a frame, where it is small, and zero for a still clip whatever a
    geometry model makes of it. NaN for a single frame and for a first frame without any gradient.
    """
    if frames_THW3.shape[0] < 2:
        return float("nan")
    first = _gradient(frames_THW3[:1])[0]
    if first < _TINY:
        return float("nan")
    return float(_luminance(frames_THW3).diff(dim=0).abs().mean() / first)


def roughness(frames_THW3: Tensor) -> float:
    """Raggedness of the motion: mean difference of displacement between neighbouring pixels, in pixels.

    Displacements between adjacent frames come from block matching (patches of 5, shifts up to 4 pixels,
    zero shift preferred on ties) on frames averaged down to a short side of about 64. A rigid scene seen by
    a moving camera has a smooth field but for its outlines; edges that break up raise it. NaN for a single
    frame.
    """
    if frames_THW3.shape[0] < 2:
        return float("nan")
    luma_THW = _luminance(frames_THW3)
    reduce = max(1, min(luma_THW.shape[1:]) // _SHORT_SIDE)
    flow_TH2W = _block_matching(F.avg_pool2d(luma_THW[:, None], reduce)[:, 0])
    along = flow_TH2W.diff(dim=-1).norm(dim=1).mean()
    down = flow_TH2W.diff(dim=-2).norm(dim=1).mean()
    return float((along + down) / 2)


def _block_matching(luma_THW: Tensor) -> Tensor:
    """Displacement of every pixel to the next frame, T-1,2,H,W, whole pixels (x, y)."""
    current, following = luma_THW[:-1], luma_THW[1:]
    height, width = current.shape[1:]
    padded = F.pad(following[:, None], (_REACH,) * 4, mode="replicate")[:, 0]
    shifts = sorted(
        ((dx, dy) for dy in range(-_REACH, _REACH + 1) for dx in range(-_REACH, _REACH + 1)),
        key=lambda shift: shift[0] ** 2 + shift[1] ** 2,
    )
    cost = torch.stack(
        [
            (padded[:, _REACH + dy : _REACH + dy + height, _REACH + dx : _REACH + dx + width] - current).abs()
            for dx, dy in shifts
        ],
        dim=1,
    )
    cost = F.avg_pool2d(cost, _PATCH, stride=1, padding=_PATCH // 2, count_include_pad=False)
    # Longer shifts must be better by a hair, or noise decides in flat areas and in still clips.
    cost += torch.tensor([1e-3 * (dx**2 + dy**2) ** 0.5 for dx, dy in shifts], device=cost.device)[
        :, None, None
    ]
    table_S2 = torch.tensor(shifts, dtype=luma_THW.dtype, device=luma_THW.device)
    return table_S2[cost.argmin(dim=1)].permute(0, 3, 1, 2)


_RADIAN_WEIGHT = 0.1


def camera_centres(w2c_T34: Tensor) -> Tensor:
    """Camera centres in the world, T,3: c = -R^T t."""
    return -(w2c_T34[:, :, :3].transpose(1, 2) @ w2c_T34[:, :, 3:]).squeeze(-1)


def rotation_angles(w2c_T34: Tensor) -> Tensor:
    """Angle between adjacent cameras in radians, T-1, exact also for tiny angles (no arc cosine near one)."""
    rotation_T33 = w2c_T34[:, :, :3].double()
    relative_T33 = rotation_T33[1:] @ rotation_T33[:-1].transpose(1, 2)
    skew_T33 = relative_T33 - relative_T33.transpose(1, 2)
    sine_T = torch.linalg.matrix_norm(skew_T33) / 8**0.5
    cosine_T = (relative_T33.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    return torch.atan2(sine_T, cosine_T).to(w2c_T34.dtype)


def camera_motion(w2c_T34: Tensor, depth_THW: Tensor) -> float:
    """Mean over adjacent frames of |c_next - c| / median depth + 0.1 * angle (radians).

    The static filter of VideoGPA (arXiv 2601.23286) with camera centres in place of w2c translations, which
    would turn a pure rotation into a translation, and without a unit of length. Zero for fewer than two
    frames. NaN when no depth is positive and finite.
    """
    if w2c_T34.shape[0] < 2:
        return 0.0
    usable_N = depth_THW[(depth_THW > 0) & depth_THW.isfinite()]
    if not usable_N.numel():
        return float("nan")
    step_T = (camera_centres(w2c_T34).diff(dim=0)).norm(dim=-1) / usable_N.median()
    return float((step_T + _RADIAN_WEIGHT * rotation_angles(w2c_T34)).mean())
