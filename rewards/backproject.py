"""Depth maps to world points.

Shape legend: T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def backproject(depth_THW: Tensor, intrinsics_T33: Tensor, w2c_T34: Tensor) -> Tensor:
    """World point of every pixel, points_THW3: X = R^T (D K^-1 [u, v, 1]^T - t).

    The camera-to-world form of VideoGPA (arXiv 2601.23286), section 3, written for w2c cameras (OpenCV) and
    pixel centres at integers. Units are those of the depth. The 3x3 matrices are composed in float64, and
    the points themselves come from elementwise float32 operations only, so that they do not depend on the
    number of threads. Raises torch.linalg.LinAlgError when an intrinsic matrix is singular.
    """
    height, width = depth_THW.shape[1:]
    rotation_T33 = w2c_T34[:, :, :3].double().transpose(1, 2)
    ray_T33 = (rotation_T33 @ torch.linalg.inv(intrinsics_T33.double())).float()
    centre_T3 = -(rotation_T33 @ w2c_T34[:, :, 3:].double()).squeeze(-1).float()
    u_W = torch.arange(width, dtype=torch.float32, device=depth_THW.device)
    v_H1 = torch.arange(height, dtype=torch.float32, device=depth_THW.device)[:, None]
    points_THW3 = torch.empty(*depth_THW.shape, 3, dtype=torch.float32, device=depth_THW.device)
    for axis in range(3):
        a_T11, b_T11, c_T11 = (ray_T33[:, axis, column, None, None] for column in range(3))
        direction_THW = (a_T11 * u_W + c_T11) + b_T11 * v_H1
        points_THW3[..., axis] = direction_THW.mul_(depth_THW).add_(centre_T3[:, axis, None, None])
    return points_THW3
