"""A fundamental matrix from matches, some of them wrong, and the Sampson distance to epipolar lines.

Shape legend: N matches. Pixels are x, y with pixel centres at integers; F takes a pixel of the first frame to
its line in the second: second^T F first = 0.

Shape legend: N matches. Pixels are x, y; second^T F first = 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rewards.matching.matches import require_opencv

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
    pure rotation, see `_rotation_distance`.
    """
    rotation_33, translation_3 = _relative(first_w2c_34, second_w2c_34)
    if float(translation_3.norm()) < _NO_BASELINE * depth:
        return _rotation_distance(rotation_33, first_intrinsics_33, second_intrinsics_33, first_N2, second_N2)
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


def _rotation_distance(
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


_MINIMUM = 8
_CONFIDENCE = 0.9999
_ITERATIONS = 5000
_ROUNDS = 10  # of re-weighting


def estimate_fundamental(first_N2: Tensor, second_N2: Tensor, threshold: float) -> Tensor | None:
    """F_33 in float64 with norm 1, or None when no matrix is found.

    MAGSAC++ (Barath et al. 2020) through OpenCV with a fixed seed, threshold in pixels, then a refit to the
    matches within it, kept when it lowers the truncated squared Sampson distance. The same bits in every run.
    """
    if first_N2.shape[0] < _MINIMUM:
        return None
    cv2 = require_opencv()
    parameters = cv2.UsacParams()
    parameters.confidence = _CONFIDENCE
    parameters.maxIterations = _ITERATIONS
    parameters.threshold = threshold
    parameters.score = cv2.SCORE_METHOD_MAGSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
    parameters.randomGeneratorState = 0
    parameters.isParallel = False
    points = [points_N2.double().cpu().numpy() for points_N2 in (first_N2, second_N2)]
    try:
        found, _ = cv2.findFundamentalMat(*points, parameters)
    except cv2.error:  # an assertion about an empty model: how OpenCV says that no sample gave a matrix
        return None
    if found is None or found.shape != (3, 3) or not np.isfinite(found).all():
        return None
    robust_33 = torch.from_numpy(found).double()
    first_N2, second_N2 = first_N2.double().cpu(), second_N2.double().cpu()
    candidates = [robust_33, _refit(robust_33, first_N2, second_N2, threshold)]
    best_33 = min(candidates, key=lambda one_33: _cost(one_33, first_N2, second_N2, threshold))
    unit_33: Tensor = best_33 / best_33.norm()
    return unit_33


def _cost(fundamental_33: Tensor, first_N2: Tensor, second_N2: Tensor, threshold: float) -> float:
    distance_N = sampson_distance(fundamental_33, first_N2, second_N2)
    return float(distance_N.clamp_max(threshold).square().sum())


def _refit(fundamental_33: Tensor, first_N2: Tensor, second_N2: Tensor, threshold: float) -> Tensor:
    """Least squares of the Sampson distance over the matches within the threshold, by re-weighting."""
    for _ in range(_ROUNDS):
        close_N = sampson_distance(fundamental_33, first_N2, second_N2) <= threshold
        if int(close_N.sum()) < _MINIMUM:
            break
        fundamental_33 = weighted_eight_point(first_N2[close_N], second_N2[close_N], fundamental_33)
    return fundamental_33


def weighted_eight_point(first_N2: Tensor, second_N2: Tensor, previous_33: Tensor | None = None) -> Tensor:
    """F_33 of rank 2 in float64 with norm 1 from eight matches or more (Hartley 1997).

    previous_33: its residuals are divided by the slopes of that matrix, which turns the algebraic error into
    the Sampson distance near it.
    """
    first_N3, first_33 = _normalised(first_N2)
    second_N3, second_33 = _normalised(second_N2)
    rows_N9 = (second_N3[:, :, None] * first_N3[:, None, :]).flatten(1)
    if previous_33 is not None:
        seen_33 = torch.linalg.inv(second_33).T @ previous_33 @ torch.linalg.inv(first_33)
        slope_N = (first_N3 @ seen_33.T)[:, :2].square().sum(1) + (second_N3 @ seen_33)[:, :2].square().sum(1)
        rows_N9 = rows_N9 / slope_N.sqrt().clamp_min(1e-12)[:, None]
    _, vectors_99 = torch.linalg.eigh(rows_N9.T @ rows_N9)
    left_33, values_3, right_33 = torch.linalg.svd(vectors_99[:, 0].view(3, 3))
    flat_33 = left_33 @ torch.diag(values_3 * values_3.new_tensor([1, 1, 0])) @ right_33
    result_33: Tensor = second_33.T @ flat_33 @ first_33
    return result_33.div_(result_33.norm())


def _normalised(points_N2: Tensor) -> tuple[Tensor, Tensor]:
    """Homogeneous points about their mean at a mean distance of sqrt(2), and the matrix that moved them."""
    points_N2 = points_N2.double()
    mean_2 = points_N2.mean(dim=0)
    scale = 2**0.5 / float((points_N2 - mean_2).norm(dim=1).mean().clamp_min(1e-12))
    matrix_33 = points_N2.new_tensor([[scale, 0, 0], [0, scale, 0], [0, 0, 1]])
    matrix_33[:2, 2] = -scale * mean_2
    return torch.nn.functional.pad(points_N2, (0, 1), value=1.0) @ matrix_33.T, matrix_33
