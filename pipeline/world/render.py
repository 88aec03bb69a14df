"""An analytic ray caster: exact z-depth, bilinear textures, 2x2 supersampled colour.

Pixel centres lie at integer coordinates: pixel (u, v) looks along K^-1 [u, v, 1], so that a ray parameter is
z-depth and not ray length. x, y and z stay separate tensors: reductions over a last axis of 3 are slow.
Legend: T frames, N rays a frame, B boxes (0 is the room), F faces, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.world.cameras import INTRINSICS
from pipeline.world.scenes import TEXTURE_SIDE, Scene


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A rendered video with its exact geometry.

    frames float32 [T, H, W, 3] in [0, 1]; depth float32 [T, H, W] is z in metres at the pixel centre; w2c is
    OpenCV world-to-camera [T, 3, 4]; intrinsics [T, 3, 3] are in pixels.
    """

    frames_THW3: Tensor
    depth_THW: Tensor
    w2c_T34: Tensor
    intrinsics_T33: Tensor

    def __post_init__(self) -> None:
        count, height, width = self.depth_THW.shape
        expected = {
            "frames_THW3": (count, height, width, 3),
            "w2c_T34": (count, 3, 4),
            "intrinsics_T33": (count, 3, 3),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape or value.dtype != torch.float32:
                raise ValueError(
                    f"Clip.{name}: must be float32 {shape} to match the depth, got {value.dtype} "
                    f"{tuple(value.shape)}"
                )


@dataclass(frozen=True)
class _Hits:
    """Per ray: z-depth, the object, and axis (0, 1, 2) and side (0 low, 1 high) of the face hit."""

    depth_TN: Tensor
    box_TN: Tensor
    axis_TN: Tensor
    side_TN: Tensor


def _rays(w2c_T34: Tensor, intrinsics_33: Tensor, size: int, samples: int) -> list[Tensor]:
    """World directions with camera z = 1, as three tensors [T, N]; `samples` a pixel side."""
    offset = (torch.arange(size * samples) + 0.5) / samples - 0.5
    x_W = (offset - intrinsics_33[0, 2]) / intrinsics_33[0, 0]
    y_H = (offset - intrinsics_33[1, 2]) / intrinsics_33[1, 1]
    count = size * samples
    x_N = x_W.repeat(count)
    y_N = y_H.repeat_interleave(count)
    r = w2c_T34[:, :, :3]
    return [r[:, 0, k, None] * x_N + r[:, 1, k, None] * y_N + r[:, 2, k, None] for k in range(3)]


def _slab(low: float, high: float, origin_T1: Tensor, inverse_TN: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (low - origin_T1) * inverse_TN, (high - origin_T1) * inverse_TN
    return torch.minimum(first, second), torch.maximum(first, second)


def _trace(scene: Scene, centres_T3: Tensor, directions: list[Tensor]) -> _Hits:
    inverse = [1.0 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d) for d in directions]
    origins = [centres_T3[:, k, None] for k in range(3)]
    low, high = scene.low_B3.tolist(), scene.high_B3.tolist()
    exits = [_slab(low[0][k], high[0][k], origins[k], inverse[k])[1] for k in range(3)]
    depth_TN = torch.minimum(torch.minimum(exits[0], exits[1]), exits[2])
    axis_TN = torch.where(exits[0] <= depth_TN, 0, torch.where(exits[1] <= depth_TN, 1, 2))
    box_TN = torch.zeros_like(axis_TN)
    for box in range(1, len(low)):
        slabs = [_slab(low[box][k], high[box][k], origins[k], inverse[k]) for k in range(3)]
        enter = torch.maximum(torch.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
        leave = torch.minimum(torch.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
        hit = (enter < leave) & (enter > 1e-4) & (enter < depth_TN)
        axis = torch.where(slabs[0][0] >= enter, 0, torch.where(slabs[1][0] >= enter, 1, 2))
        depth_TN = torch.where(hit, enter, depth_TN)
        axis_TN = torch.where(hit, axis, axis_TN)
        box_TN = torch.where(hit, box, box_TN)
    towards = torch.where(
        axis_TN == 0, directions[0], torch.where(axis_TN == 1, directions[1], directions[2])
    )
    # From inside the room a positive direction meets the high wall, from outside a box its low face.
    side_TN = (towards > 0) == (box_TN == 0)
    return _Hits(depth_TN=depth_TN, box_TN=box_TN, axis_TN=axis_TN, side_TN=side_TN.long())


def _centres(w2c_T34: Tensor) -> Tensor:
    return -(w2c_T34[:, :, :3].transpose(1, 2) @ w2c_T34[:, :, 3:])[..., 0]


def _shade(scene: Scene, centres_T3: Tensor, directions: list[Tensor], hits: _Hits) -> Tensor:
    """Colours [3, T, N] by one bilinear lookup in an atlas of all faces, stacked along its height."""
    local = []
    size_B3 = scene.high_B3 - scene.low_B3
    for k in range(3):
        point = centres_T3[:, k, None] + hits.depth_TN * directions[k]
        local.append((point - scene.low_B3[:, k][hits.box_TN]) / size_B3[:, k][hits.box_TN])
    u_TN = torch.where(hits.axis_TN == 0, local[2], local[0])
    v_TN = torch.where(hits.axis_TN == 1, local[2], local[1])
    faces, side = scene.textures_FCSS.shape[0], TEXTURE_SIDE
    face_TN = hits.box_TN * 6 + hits.axis_TN * 2 + hits.side_TN
    # Clamped half a texel inside the tile: no colour bleeds in from the neighbouring face.
    x_TN = (u_TN * side).clamp(0.5, side - 0.5) * (2 / side) - 1
    y_TN = ((v_TN * side).clamp(0.5, side - 0.5) + face_TN * side) * (2 / (side * faces)) - 1
    atlas = scene.textures_FCSS.permute(1, 0, 2, 3).reshape(1, 3, faces * side, side)
    grid = torch.stack([x_TN, y_TN], -1)[None]
    return functional.grid_sample(atlas, grid, mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def render(scene: Scene, w2c_T34: Tensor, size: int = 64) -> Clip:
    """Renders the scene from every camera; see `Clip` for shapes, units and conventions."""
    intrinsics_33 = INTRINSICS(size)
    centres_T3 = _centres(w2c_T34)
    fine = _rays(w2c_T34, intrinsics_33, size, 2)
    colours_3TN = _shade(scene, centres_T3, fine, _trace(scene, centres_T3, fine))
    frames = w2c_T34.shape[0]
    pooled = functional.avg_pool2d(colours_3TN.reshape(3, frames, 2 * size, 2 * size), 2)
    depth_TN = _trace(scene, centres_T3, _rays(w2c_T34, intrinsics_33, size, 1)).depth_TN
    return Clip(
        frames_THW3=pooled.permute(1, 2, 3, 0).contiguous().clamp(0, 1),
        depth_THW=depth_TN.reshape(frames, size, size),
        w2c_T34=w2c_T34,
        intrinsics_T33=intrinsics_33.repeat(frames, 1, 1),
    )
