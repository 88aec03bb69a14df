"""VGGT's nine numbers of a camera to matrices.

Shape legend: T cameras.
"""

from __future__ import annotations

import torch
from torch import Tensor


def decode_cameras(pose_T9: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """w2c_T34 (OpenCV) and intrinsics_T33 (pixels of a height x width frame) from VGGT's pose_enc.

    A pose is translation, quaternion x y z w (of any length) and the vertical and horizontal field of view in
    radians. The principal point is (width / 2, height / 2) with pixel centres at integers, as the model was
    trained. A zero quaternion or field of view gives values that are not finite.
    """
    translation_T3, quaternion_T4, fov_T2 = pose_T9[:, :3], pose_T9[:, 3:7], pose_T9[:, 7:]
    vector_T3, real_T11 = quaternion_T4[:, :3], quaternion_T4[:, 3, None, None]
    # R = I + 2 (w [v]x + [v]x^2) / |q|^2
    cross_T33 = _cross(vector_T3)
    scale_T11 = 2 / quaternion_T4.square().sum(dim=1)[:, None, None]
    turn_T33 = scale_T11 * (real_T11 * cross_T33 + cross_T33 @ cross_T33)
    rotation_T33 = torch.eye(3, dtype=pose_T9.dtype, device=pose_T9.device) + turn_T33
    half_T2 = pose_T9.new_tensor([height / 2, width / 2])
    focal_T2 = half_T2 / torch.tan(fov_T2 / 2)
    intrinsics_T33 = torch.zeros_like(rotation_T33)
    intrinsics_T33[:, 0, 0], intrinsics_T33[:, 1, 1] = focal_T2[:, 1], focal_T2[:, 0]
    intrinsics_T33[:, 0, 2], intrinsics_T33[:, 1, 2] = width / 2, height / 2
    intrinsics_T33[:, 2, 2] = 1
    return torch.cat([rotation_T33, translation_T3[:, :, None]], dim=2), intrinsics_T33


def _cross(vector_T3: Tensor) -> Tensor:
    """The matrix that takes a cross product, T,3,3."""
    x, y, z = vector_T3.unbind(dim=1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, dim=1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, dim=1)
