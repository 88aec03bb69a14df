"""The rasterisers by name. Adding one is a file with a `splat_views` and a line here.

Shape legend: N points, V views, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rewards.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor


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


AUTO, BUILT_IN = "auto", "torch"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The rasteriser that `auto` is on a device, and why."""

    name: str
    reason: str


# The faster one on each kind of device, as `gpa bench score` measured it (docs/benchmarks.md). All draw the
# same bit for bit, so that what stands here changes no score and no version of a reward.
_FASTER = {"cpu": Choice(name=BUILT_IN, reason="measured 5 to 12 times faster than pytorch3d on a CPU")}


def choose_rasteriser(device: str) -> Choice:
    """What `auto` is on a device: the one measured faster, or the built-in one where none was."""
    kind = device.partition(":")[0]
    unmeasured = Choice(name=BUILT_IN, reason=f"built in; not measured against pytorch3d on {kind}")
    return _FASTER.get(kind, unmeasured)


def find_rasteriser(name: str, device: str = "cpu") -> Rasteriser:
    """The rasteriser `name`; `auto` is the one chosen for the device.

    Raises RewardError when it does not exist or what it needs is not installed.
    """
    if name == AUTO:
        name = choose_rasteriser(device).name
    if name not in RASTERISERS:
        raise RewardError(f"rasteriser '{name}' does not exist; choose one of: {', '.join(RASTERISERS)}")
    return RASTERISERS[name]()
