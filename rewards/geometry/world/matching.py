"""The explicit matching cue of the world's geometry network: motion of every cell relative to frame 0.

Frames are followed one after the other. Each starts from the motion of the frame before, extrapolated at
constant velocity, is corrected by block matching over a small window, and then by damped Lucas-Kanade steps.
Legend: B clips, T frames, C colours, H, W pixels, h, w cells of 4x4 pixels, K candidate displacements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

CELL: Final = 4
_REACH: Final = 2
_TEMPERATURE: Final = 4e-4
_STAY: Final = 1e-4
_DAMPING: Final = 2e-4
_STEPS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Backward motion to frame 0 in pixels, its remaining colour error, and how much texture supports it."""

    flow_BT2hw: Tensor
    residual_BThw: Tensor
    texture_BThw: Tensor

    def at(self, times_T: Tensor) -> Matches:
        """The matches of those frames."""
        return Matches(
            flow_BT2hw=self.flow_BT2hw[:, times_T],
            residual_BThw=self.residual_BThw[:, times_T],
            texture_BThw=self.texture_BThw[:, times_T],
        )


def _warp(images_BCHW: Tensor, flow_B2hw: Tensor) -> Tensor:
    height, width = images_BCHW.shape[-2:]
    dense = F.interpolate(flow_B2hw, scale_factor=CELL, mode="bilinear")
    y, x = torch.meshgrid(
        torch.arange(height, device=dense.device), torch.arange(width, device=dense.device), indexing="ij"
    )
    where = torch.stack([(dense[:, 0] + x + 0.5) * (2 / width), (dense[:, 1] + y + 0.5) * (2 / height)], -1)
    return F.grid_sample(images_BCHW, where - 1, padding_mode="border", align_corners=False)


def _window(values_BKHW: Tensor) -> Tensor:
    """Mean over the 12x12 pixels around every cell."""
    return F.avg_pool2d(F.avg_pool2d(values_BKHW, CELL), 3, 1, 1, count_include_pad=False)


def _search(first_BCHW: Tensor, frame_BCHW: Tensor, flow_B2hw: Tensor) -> Tensor:
    """Flow corrected by the softly chosen best of the whole-pixel displacements around it."""
    height, width = frame_BCHW.shape[-2:]
    moved = F.pad(_warp(first_BCHW, flow_B2hw), [_REACH] * 4, mode="replicate")
    shifts = [(dx, dy) for dy in range(-_REACH, _REACH + 1) for dx in range(-_REACH, _REACH + 1)]
    errors = []
    for dx, dy in shifts:
        top, left = dy + _REACH, dx + _REACH
        errors.append((moved[:, :, top : top + height, left : left + width] - frame_BCHW).square().mean(1))
    cost_BKhw = _window(torch.stack(errors, 1))
    shift_K2 = cost_BKhw.new_tensor(shifts)
    penalty_K = _STAY * shift_K2.square().sum(1)
    weight_BKhw = torch.softmax(-(cost_BKhw + penalty_K[:, None, None]) / _TEMPERATURE, 1)
    return flow_B2hw + torch.einsum("bkhw,kc->bchw", weight_BKhw, shift_K2)


def _smooth(flow_B2hw: Tensor, weight_B1hw: Tensor) -> Tensor:
    """Textured cells lend their motion to their neighbours."""
    weight = weight_B1hw + 1e-6
    pooled = F.avg_pool2d(F.pad(torch.cat([flow_B2hw * weight, weight], 1), [1] * 4, mode="replicate"), 3, 1)
    keep = weight / (weight + 3 * _DAMPING)
    return keep * flow_B2hw + (1 - keep) * pooled[:, :2] / pooled[:, 2:]


def _refine(first_BCHW: Tensor, frame_BCHW: Tensor, flow_B2hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One damped Lucas-Kanade step: corrected flow, colour error before, smaller eigenvalue of texture."""
    moved = _warp(first_BCHW, flow_B2hw)
    padded = F.pad(moved, [1] * 4, mode="replicate")
    gx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    gy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    error = frame_BCHW - moved
    products = [gx * gx, gx * gy, gy * gy, gx * error, gy * error, error * error]
    xx, xy, yy, xe, ye, ee = _window(torch.stack([p.mean(1) for p in products], 1)).unbind(1)
    xx_d, yy_d = xx + _DAMPING, yy + _DAMPING
    determinant = xx_d * yy_d - xy * xy
    step = torch.stack([yy_d * xe - xy * ye, xx_d * ye - xy * xe], 1) / determinant[:, None]
    weakest = (xx + yy) / 2 - (((xx - yy) / 2).square() + xy * xy).clamp_min(1e-12).sqrt()
    return flow_B2hw + step.clamp(-1.0, 1.0), ee, weakest.clamp_min(0)


@torch.no_grad()
def match_to_first(frames_BTCHW: Tensor) -> Matches:
    """Motion of every 4x4 cell relative to frame 0; frames float in [0, 1], sides divisible by 4."""
    batch, frames, _, height, width = frames_BTCHW.shape
    first = frames_BTCHW[:, 0]
    flow = first.new_zeros(batch, 2, height // CELL, width // CELL)
    _, residual, texture = _refine(first, first, flow)
    flows, residuals, textures = [flow], [torch.zeros_like(residual)], [texture]
    for t in range(1, frames):
        frame = frames_BTCHW[:, t]
        flow = flow * (t / (t - 1)) if t > 1 else flow
        flow = _search(first, frame, flow)
        for _ in range(_STEPS):
            flow, _, texture = _refine(first, frame, flow)
            flow = _smooth(flow, texture[:, None])
        residual = _window((_warp(first, flow) - frame).square().mean(1, keepdim=True))[:, 0]
        flows.append(flow)
        residuals.append(residual)
        textures.append(texture)
    return Matches(
        flow_BT2hw=torch.stack(flows, 1),
        residual_BThw=torch.stack(residuals, 1),
        texture_BThw=torch.stack(textures, 1),
    )
