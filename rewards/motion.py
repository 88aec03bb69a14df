"""How much the camera moves, in units of scene depth.

Shape legend: T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
