"""The rasterisers by name. Adding one is a file with a `splat_views` and a line here.

Shape legend: N points, V views, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from rewards.errors import RewardError


class Rasteriser(Protocol):
    """Draws a cloud into views as `rewards.rasterise.zbuffer.splat_views` defines it, point for point."""

    def __call__(
        self,
        points_N3: Tensor,
        colors_N3: Tensor,
        intrinsics_V33: Tensor,
        w2c_V34: Tensor,
        height: int,
        width: int,
        keep_VN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """image_VHW3, depth_VHW, index_VHW."""
        ...


def _torch() -> Rasteriser:
    from rewards.rasterise.zbuffer import splat_views

    return splat_views


def _pytorch3d() -> Rasteriser:
    from rewards.rasterise.pytorch3d import require_pytorch3d, splat_views

    require_pytorch3d()
    return splat_views


RASTERISERS: dict[str, Callable[[], Rasteriser]] = {"torch": _torch, "pytorch3d": _pytorch3d}


def find_rasteriser(name: str) -> Rasteriser:
    """The rasteriser `name`. Raises RewardError when it does not exist or what it needs is not installed."""
    if name not in RASTERISERS:
        raise RewardError(f"rasteriser '{name}' does not exist; choose one of: {', '.join(RASTERISERS)}")
    return RASTERISERS[name]()
