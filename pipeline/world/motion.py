"""Backward motion between images: estimated from pixels, warped by, and true, from depth and poses.

Shape legend: B clips, F frames, C channels, H W pixels, h w cells (H/block W/block), K candidate
displacements. Motion is (x, y) in pixels and is *backward*: the pixel p of frame t shows what frame 1 has
at p + motion(p).

Legend: T frames, H, W pixels; 2 is (x, y) in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import functional

from pipeline.world.render import Clip

# (reach in steps, step in pixels of the half-size images): a wide coarse search, then a narrow fine one.
_SEARCH_STAGES = ((3, 1.0), (2, 0.4))
_REFINE_STEPS = 30
_SMOOTHNESS = 0.06


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
        for reach, step in _SEARCH_STAGES:
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
        for step in range(_REFINE_STEPS):
            optimiser.param_groups[0]["lr"] = 0.12 * (1 - step / _REFINE_STEPS) + 0.01
            error = warp_by_cells(first, variable, block) - later
            robust = (error.square() + 1e-4).sqrt().mean(dim=(1, 2, 3, 4)).sum()
            along, down = variable.diff(dim=-1).square(), variable.diff(dim=-2).square()
            bends = along.mean(dim=(1, 2, 3, 4)) + down.mean(dim=(1, 2, 3, 4))
            loss = robust + _SMOOTHNESS * bends.sum() / 4
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return variable.detach()


def pixel_grid(height: int, width: int) -> Tensor:
    """Pixel coordinates (x, y), float32 [H, W, 2]; pixel centres at integers."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).float()


def sample_at(images_TCHW: Tensor, where_THW2: Tensor) -> Tensor:
    """Bilinear samples [T, C, H, W] of images at pixel coordinates; outside, the border is repeated."""
    height, width = images_TCHW.shape[-2:]
    scale = where_THW2.new_tensor([2 / width, 2 / height])
    grid = (where_THW2 + 0.5) * scale - 1
    return functional.grid_sample(images_TCHW, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def flow_to_first(clip: Clip, tolerance: float = 0.03) -> tuple[Tensor, Tensor]:
    """Backward flow: for each pixel of frame t, where its surface point lies in frame 0, minus the pixel.

    Returns flow float32 [T, H, W, 2] in pixels and visible bool [T, H, W]: inside frame 0, in front of its
    camera, and not behind another surface there (relative depth `tolerance`).
    """
    _, height, width = clip.depth_THW.shape
    grid_HW2 = pixel_grid(height, width)
    k_T33 = clip.intrinsics_T33
    x = (grid_HW2[..., 0] - k_T33[:, 0, 2, None, None]) / k_T33[:, 0, 0, None, None] * clip.depth_THW
    y = (grid_HW2[..., 1] - k_T33[:, 1, 2, None, None]) / k_T33[:, 1, 1, None, None] * clip.depth_THW
    points_T3N = torch.stack([x, y, clip.depth_THW], 1).flatten(2)
    r_T33, t_T31 = clip.w2c_T34[:, :, :3], clip.w2c_T34[:, :, 3:]
    world_T3N = r_T33.transpose(1, 2) @ (points_T3N - t_T31)
    first_T3N = r_T33[0] @ world_T3N + t_T31[0]
    z_THW = first_T3N[:, 2].reshape(clip.depth_THW.shape)
    projected_T3N = k_T33[0] @ first_T3N
    where_THW2 = (projected_T3N[:, :2] / projected_T3N[:, 2:].clamp_min(1e-6)).reshape(-1, 2, height, width)
    where_THW2 = where_THW2.permute(0, 2, 3, 1)
    depth0 = clip.depth_THW[:1, None].expand(len(where_THW2), 1, height, width)
    # The farthest of the neighbours, so that a pixel beside an edge is not called hidden by rounding.
    farthest = functional.max_pool2d(depth0, 3, 1, 1)
    seen = z_THW <= sample_at(farthest, where_THW2)[:, 0] * (1 + tolerance)
    limit = where_THW2.new_tensor([width - 0.5, height - 0.5])
    inside = ((where_THW2 >= -0.5) & (where_THW2 <= limit)).all(-1) & (z_THW > 1e-6)
    return where_THW2 - grid_HW2, seen & inside
