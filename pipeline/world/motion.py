"""Backward motion between images: warping by it, cell by cell, and estimating it from pixels.

Shape legend: B clips, F frames, C channels, H W pixels, h w cells (H/block W/block), K candidate
displacements. Motion is (x, y) in pixels and is *backward*: the pixel p of frame t shows what frame 1 has
at p + motion(p).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# (reach in steps, step in pixels of the half-size images): a wide coarse search, then a narrow fine one.
SEARCH_STAGES = ((3, 1.0), (2, 0.4))
REFINE_STEPS = 30
SMOOTHNESS = 0.06


def warp_by_cells(images_BCHW: Tensor, motion_BF2hw: Tensor, block: int) -> Tensor:
    """Frames [B, F, C, H, W]: images looked up at p + motion(p), motion interpolated between cell centres."""
    batch, frames = motion_BF2hw.shape[:2]
    channels, height, width = images_BCHW.shape[1:]
    dense = F.interpolate(
        motion_BF2hw.flatten(0, 1), scale_factor=block, mode="bilinear", align_corners=False
    )
    moved = warp(images_BCHW.repeat_interleave(frames, dim=0), dense)
    return moved.view(batch, frames, channels, height, width)


def warp(images_NCHW: Tensor, motion_N2HW: Tensor) -> Tensor:
    """Images looked up bilinearly at p + motion(p); outside the image its border repeats."""
    height, width = images_NCHW.shape[-2:]
    ys = torch.arange(height, device=images_NCHW.device, dtype=images_NCHW.dtype).view(1, -1, 1)
    xs = torch.arange(width, device=images_NCHW.device, dtype=images_NCHW.dtype).view(1, 1, -1)
    grid_x = (xs + motion_N2HW[:, 0]) * (2 / (width - 1)) - 1
    grid_y = (ys + motion_N2HW[:, 1]) * (2 / (height - 1)) - 1
    grid = torch.stack([grid_x, grid_y], dim=-1)
    return F.grid_sample(images_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=True)


@torch.no_grad()
def estimate_motion(first_BCHW: Tensor, later_BFCHW: Tensor, block: int) -> Tensor:
    """Motion [B, F, 2, h, w] whose warp of the first frames reproduces the later frames best.

    Frames are followed one after the other: each starts from the motion of the frame before (grown by one
    step), is corrected by a coarse-to-fine search over displacements, and all are then refined together by
    gradient descent on the reconstruction error. Deterministic; uses nothing but the pixels.
    """
    batch, frames, _, height, width = later_BFCHW.shape
    motion = first_BCHW.new_zeros(batch, 2, height // block, width // block)
    half_first = F.avg_pool2d(first_BCHW, 2)
    half_later = F.avg_pool2d(later_BFCHW.flatten(0, 1), 2).view(batch, frames, -1, height // 2, width // 2)
    found = []
    for index in range(frames):
        motion = motion * ((index + 1) / max(index, 1))
        for reach, step in SEARCH_STAGES:
            motion = _search(half_first, half_later[:, index], motion, block // 2, reach, step)
        found.append(2 * motion)
    return _refine(first_BCHW, later_BFCHW, torch.stack(found, dim=1), block)


def _search(first: Tensor, target: Tensor, motion: Tensor, block: int, reach: int, step: float) -> Tensor:
    """Tries displacements on a grid around the current motion and takes the softly best one per cell."""
    offsets = torch.arange(-reach, reach + 1, dtype=motion.dtype, device=motion.device) * step
    dense = F.interpolate(motion, scale_factor=block, mode="bilinear", align_corners=False)
    costs, moves = [], []
    for dy in offsets:
        for dx in offsets:
            shift = torch.stack([dx, dy]).view(1, 2, 1, 1)
            error = (warp(first, dense + shift) - target).square().sum(1, keepdim=True)
            cost = F.avg_pool2d(F.pad(error, (block,) * 4, mode="replicate"), 3 * block, stride=block)
            costs.append(cost + 1e-3 * shift.square().sum())
            moves.append(shift)
    cost_BKhw = torch.cat(costs, dim=1)
    best = cost_BKhw.amin(1, keepdim=True)
    weight = torch.softmax((best - cost_BKhw) / (0.2 * best + 2e-4), dim=1)
    correction = torch.einsum("bkhw,kc->bchw", weight, torch.cat(moves).view(-1, 2))
    return _smooth(motion + correction)


def _smooth(motion: Tensor) -> Tensor:
    kernel = motion.new_tensor([0.25, 0.5, 0.25])
    window = (kernel[:, None] * kernel[None, :]).expand(2, 1, 3, 3)
    return F.conv2d(F.pad(motion, (1, 1, 1, 1), mode="replicate"), window, groups=2)


def _refine(first: Tensor, later: Tensor, motion: Tensor, block: int) -> Tensor:
    """Adam on a robust reconstruction error plus smoothness in space."""
    with torch.enable_grad():
        variable = motion.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([variable], lr=0.1)
        for step in range(REFINE_STEPS):
            optimiser.param_groups[0]["lr"] = 0.12 * (1 - step / REFINE_STEPS) + 0.01
            error = warp_by_cells(first, variable, block) - later
            robust = (error.square() + 1e-4).sqrt().mean(dim=(1, 2, 3, 4)).sum()
            along, down = variable.diff(dim=-1).square(), variable.diff(dim=-2).square()
            bends = along.mean(dim=(1, 2, 3, 4)) + down.mean(dim=(1, 2, 3, 4))
            loss = robust + SMOOTHNESS * bends.sum() / 4
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return variable.detach()
