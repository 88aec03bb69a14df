"""The Sampson distance of matches to the epipolar lines of two cameras.

Shape legend: N matches. Pixels are x, y with pixel centres at integers; F takes a pixel of the first frame to
its line in the second: second^T F first = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NO_BASELINE = 1e-3  # of the scene's depth: below, the direction of the lines would be rounding
_TINY = 1e-8  # pixels squared, as in Epipolar-DPO: keeps the root differentiable and a perfect match finite


def epipolar_distance(
    first_w2c_34: Tensor,
    second_w2c_34: Tensor,
    first_intrinsics_33: Tensor,
    second_intrinsics_33: Tensor,
    first_N2: Tensor,
    second_N2: Tensor,
    depth: float,
) -> Tensor:
    """How far each match is from what two OpenCV cameras allow, in pixels, N, float64.

    The Sampson distance; where the cameras stand closer than a thousandth of the scene's `depth`, that of a
    pure rotation, see `rotation_distance`.
    """
    rotation_33, translation_3 = _relative(first_w2c_34, second_w2c_34)
    if float(translation_3.norm()) < _NO_BASELINE * depth:
        return rotation_distance(rotation_33, first_intrinsics_33, second_intrinsics_33, first_N2, second_N2)
    fundamental_33 = fundamental_from_cameras(
        first_w2c_34, second_w2c_34, first_intrinsics_33, second_intrinsics_33
    )
    return sampson_distance(fundamental_33, first_N2, second_N2)


def fundamental_from_cameras(
    first_w2c_34: Tensor, second_w2c_34: Tensor, first_intrinsics_33: Tensor, second_intrinsics_33: Tensor
) -> Tensor:
    """F_33 in float64 of two OpenCV cameras: K2^-T [t]x R K1^-1. Zero for cameras that share their centre."""
    rotation_33, translation_3 = _relative(first_w2c_34, second_w2c_34)
    x, y, z = translation_3.tolist()
    cross_33 = rotation_33.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse_33 = torch.linalg.inv(second_intrinsics_33.double())
    fundamental_33: Tensor = (
        inverse_33.T @ cross_33 @ rotation_33 @ torch.linalg.inv(first_intrinsics_33.double())
    )
    return fundamental_33


def sampson_distance(fundamental_33: Tensor, first_N2: Tensor, second_N2: Tensor) -> Tensor:
    """Distance of each match in pixels, N, float64: sqrt(d^2 + 1e-8) with the first-order d (Sampson 1982).

    d^2 = (x2^T F x1)^2 / ((F x1)_1^2 + (F x1)_2^2 + (F^T x2)_1^2 + (F^T x2)_2^2). It does not depend on the
    scale of F.
    """
    first_N3, second_N3 = _homogeneous(first_N2), _homogeneous(second_N2)
    second_line_N3 = first_N3 @ fundamental_33.double().T
    first_line_N3 = second_N3 @ fundamental_33.double()
    residual_N = (second_N3 * second_line_N3).sum(dim=1)
    slope_N = second_line_N3[:, :2].square().sum(dim=1) + first_line_N3[:, :2].square().sum(dim=1)
    # A match at both epipoles fits any line: its residual is zero with the slope.
    return (residual_N.square() / slope_N.clamp_min(torch.finfo(torch.float64).tiny) + _TINY).sqrt()


def rotation_distance(
    rotation_33: Tensor,
    first_intrinsics_33: Tensor,
    second_intrinsics_33: Tensor,
    first_N2: Tensor,
    second_N2: Tensor,
) -> Tensor:
    """The same for cameras that only turned: there are no lines, but every pixel has its place.

    The distance to that place times sqrt(2) / pi, which is the mean Sampson distance over lines of every
    direction through it, so that both kinds of pairs are on one scale.
    """
    homography_33 = (
        second_intrinsics_33.double() @ rotation_33.double() @ torch.linalg.inv(first_intrinsics_33.double())
    )
    place_N3 = _homogeneous(first_N2) @ homography_33.T
    offset_N2 = place_N3[:, :2] / place_N3[:, 2:] - second_N2.double()
    distance_N: Tensor = (2 / math.pi**2 * offset_N2.square().sum(dim=1) + _TINY).sqrt()
    return distance_N


def _relative(first_w2c_34: Tensor, second_w2c_34: Tensor) -> tuple[Tensor, Tensor]:
    first, second = first_w2c_34.double(), second_w2c_34.double()
    rotation_33 = second[:, :3] @ first[:, :3].T
    return rotation_33, second[:, 3] - rotation_33 @ first[:, 3]


def _homogeneous(points_N2: Tensor) -> Tensor:
    return torch.nn.functional.pad(points_N2.double(), (0, 1), value=1.0)
