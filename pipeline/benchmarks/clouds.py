"""A made-up clip of any size with exact geometry, for timing rasterisers where no model is wanted.

Shape legend: T frames, V views, H height, W width, N points (T*H*W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.rasterise.zbuffer import backproject


@dataclass(frozen=True, kw_only=True)
class CloudSize:
    """`frames` frames of `height` x `width` pixels, drawn into `views` views; ValueError below 1."""

    frames: int = 10
    views: int = 10
    height: int = 288
    width: int = 518

    def __post_init__(self) -> None:
        for name in ("frames", "views", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A coloured cloud and the cameras it is drawn into, named as `splat_views` takes them."""

    points_N3: Tensor
    colors_N3: Tensor
    intrinsics_V33: Tensor
    w2c_V34: Tensor
    height: int
    width: int

    def to(self, device: str) -> Cloud:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Cloud(**moved, height=self.height, width=self.width)


def make_cloud(size: CloudSize, device: str = "cpu") -> Cloud:
    """Flat panels before a wavy wall, seen by a camera that first slides and then turns.

    The wall is uneven by half a per cent, as a network's depth is. The panels have one depth: as long as the
    camera slides, points of several frames share a pixel and a depth, so that ties are frequent.
    """
    generator = torch.Generator().manual_seed(0)
    v_H1 = torch.linspace(0, 9, size.height)[:, None]
    u_W = torch.linspace(0, 16, size.width)
    step_T11 = torch.arange(size.frames)[:, None, None] / 4
    panel_THW = (u_W + step_T11).sin() * (v_H1 + step_T11).cos() > 0.3
    uneven_THW = 1 + 0.005 * torch.randn(panel_THW.shape, generator=generator)
    wall_THW = (3 + 0.2 * (u_W * 1.7).sin() * v_H1.cos()) * uneven_THW
    depth_THW = torch.where(panel_THW, 1.5, wall_THW)
    intrinsics_V33, w2c_V34 = _cameras(max(size.frames, size.views), size.height, size.width)
    cameras_T = intrinsics_V33[: size.frames], w2c_V34[: size.frames]
    points_N3 = backproject(depth_THW, *cameras_T).view(-1, 3)
    colors_N3 = torch.rand(len(points_N3), 3, generator=generator)
    return Cloud(
        points_N3=points_N3,
        colors_N3=colors_N3,
        intrinsics_V33=intrinsics_V33[: size.views],
        w2c_V34=w2c_V34[: size.views],
        height=size.height,
        width=size.width,
    ).to(device)


def _cameras(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Intrinsics and w2c of a camera that slides by pixels of the far wall, then turns by half a degree."""
    intrinsics_33 = torch.tensor([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    w2c_V34 = torch.eye(4)[:3].repeat(count, 1, 1)
    number_V = torch.arange(count)
    angle_V = 0.00873 * (number_V - count // 2).clamp(min=0)
    w2c_V34[:, 0, 0] = w2c_V34[:, 2, 2] = angle_V.cos()
    w2c_V34[:, 0, 2], w2c_V34[:, 2, 0] = angle_V.sin(), -angle_V.sin()
    w2c_V34[:, 0, 3] = -3.0 * 4 / width * number_V
    return intrinsics_33.repeat(count, 1, 1), w2c_V34
