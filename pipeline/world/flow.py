"""Ground-truth flow between frames of a clip, from depth and poses.

Legend: T frames, H, W pixels; 2 is (x, y) in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.world.render import Clip


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


def warp_first(frames_THW3: Tensor, flow_THW2: Tensor) -> Tensor:
    """Frame 0 pulled along a backward flow: frames [T, H, W, 3] as a motion-compensated codec shows them."""
    count, height, width = flow_THW2.shape[:3]
    first = frames_THW3[:1].permute(0, 3, 1, 2).expand(count, 3, height, width)
    return sample_at(first, pixel_grid(height, width) + flow_THW2).permute(0, 2, 3, 1)
