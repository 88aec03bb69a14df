"""The splatting of `zbuffer.py` through PyTorch3D's point rasteriser, which must draw the same.

Shape legend: N points, V views, H height, W width, P pixels of a view (H*W), D points drawn into one view,
Q squares of the image, C those of them that points fall into, S side of a square.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import torch
from torch import Tensor

from rewards.errors import RewardError
from rewards.rasterise.zbuffer import EMPTY, check_cloud, project, projection, resolve, sort_keys

INSTALL = "https://github.com/facebookresearch/pytorch3d/blob/main/INSTALL.md"
# Wheels and torch that work together: a test compares them with constraints.txt.
FITTING = {"easypytorch3d": "0.7.9.post1", "torch": "2.12.1"}
_FROM_SOURCE = "pytorch3d"  # the distribution that a build of the sources gives
REMEDY = (
    "install that pair (make, or the extra [pytorch3d]), build PyTorch3D for this torch as "
    f"{INSTALL} says, or use --rasteriser torch"
)
# The library tests every point of a cloud against every pixel of its image (on a GPU it can bin the points,
# and drops those that overflow a bin). So each square of this side is an image with a cloud of its own.
_SIDE = 8
_RADIUS = 0.45  # of a disc in pixels: a point at the centre of its pixel must reach no other centre


@dataclass(frozen=True, kw_only=True)
class Build:
    """An installed PyTorch3D: its distribution with the version, and the CUDA that it was compiled with."""

    distribution: str
    cuda: str | None

    def __str__(self) -> str:
        return f"{self.distribution}, {f'CUDA {self.cuda}' if self.cuda else 'compiled without CUDA'}"


def find_build() -> Build | None:
    """What is installed, without importing it, which may fail; None without any."""
    spec = util.find_spec("pytorch3d")
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    versions = {name: _version(name) for name in ("easypytorch3d", _FROM_SOURCE)}
    known = [f"{name} {version}" for name, version in versions.items() if version]
    where = " and ".join(known) or f"pytorch3d of no distribution at {folders[0] if folders else spec.origin}"
    return Build(distribution=where, cuda=_compiled_cuda(folders))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _compiled_cuda(folders: Sequence[Path]) -> str | None:
    """The version of CUDA's runtime that the compiled part is linked with; None without CUDA's functions.

    A build for the CPU alone lacks the function looked for: its callers say "Not compiled with GPU support".
    """
    for path in (path for folder in folders for path in sorted(folder.glob("_C.*")) if path.stat().st_size):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"RasterizePointsNaiveCuda") >= 0:
                linked = re.search(rb"libcudart\.so\.([0-9.]+)", content)
                return linked[1].decode() if linked else "of unknown version"
    return None


def require_pytorch3d() -> None:
    """Raise RewardError unless PyTorch3D can be imported, its compiled part included.

    The message, one line, names its version, torch's and the pair that works.
    """
    try:
        import pytorch3d.renderer.points.rasterize_points  # noqa: F401
    except (ImportError, OSError) as error:
        fitting = " with ".join(f"{name} {version}" for name, version in FITTING.items())
        raise RewardError(
            f"rasteriser 'pytorch3d': {_why(error)}; the pair that works is {fitting}: {REMEDY}"
        ) from error


def _why(error: ImportError | OSError) -> str:
    build, beside = find_build(), f"torch {torch.__version__}"
    if build is None:
        return f"PyTorch3D is not installed beside {beside}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{build.distribution} cannot be imported under {beside} ({reason})"


@torch.no_grad()
def splat_views(
    points_N3: Tensor,
    colors_N3: Tensor,
    intrinsics_V33: Tensor,
    w2c_V34: Tensor,
    height: int,
    width: int,
    keep_VN: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`rewards.rasterise.zbuffer.splat_views` drawn by PyTorch3D: same arguments, same image, depth and
    index.

    Points are projected as there and moved to the centres of their pixels, where discs below half a pixel
    cover one pixel each. Every point is then checked against the pixel it falls into. Raises ValueError for
    wrong shapes, RewardError when the library is missing, has no CUDA for a cloud on a GPU, or left out
    points.
    """
    require_pytorch3d()
    points_XN3 = points_N3 if points_N3.ndim == 3 else points_N3[None]
    check_cloud(points_XN3, colors_N3, intrinsics_V33, w2c_V34, height, width, keep_VN)
    points_X3N = points_XN3.float().transpose(1, 2).contiguous()
    projection_V34 = projection(intrinsics_V33, w2c_V34)
    views = range(projection_V34.shape[0])
    keys = [
        _nearest(
            points_X3N if points_X3N.shape[0] == 1 else points_X3N[view, None],
            projection_V34[view, None],
            height,
            width,
            None if keep_VN is None else keep_VN[view, None],
        )
        for view in views
    ]
    none_VP = torch.empty(0, height * width, dtype=torch.int64, device=points_X3N.device)
    return resolve(torch.stack(keys) if keys else none_VP, colors_N3, height, width)


def _nearest(
    points_13N: Tensor, projection_134: Tensor, height: int, width: int, keep_1N: Tensor | None
) -> Tensor:
    """Key of the nearest point of every pixel of one view, P."""
    u_1N, v_1N, z_1N, drawn_1N = project(points_13N, projection_134, height, width, keep_1N)
    number_D = drawn_1N[0].nonzero().flatten()
    u_D, v_D, z_D = u_1N[0, number_D].long(), v_1N[0, number_D].long(), z_1N[0, number_D]
    key_D = sort_keys(z_D, number_D)
    across, down = -(-width // _SIDE), -(-height // _SIDE)
    keys_QSS = torch.full((down * across, _SIDE, _SIDE), EMPTY, dtype=torch.int64, device=key_D.device)
    if len(number_D):
        square_D = (v_D // _SIDE) * across + u_D // _SIDE
        # A stable order, because the library gives a tie to the point that comes first in its cloud.
        order_D = square_D.argsort(stable=True)
        ndc_D3 = torch.stack([_ndc(u_D % _SIDE), _ndc(v_D % _SIDE), z_D], dim=1)[order_D]
        count_Q = torch.bincount(square_D, minlength=down * across)
        square_C = count_Q.nonzero().flatten()
        place_CSS = rasterise_squares(torch.split(ndc_D3, count_Q[square_C].tolist()))
        keys_CSS = key_D[order_D[place_CSS.clamp(min=0)]].masked_fill_(place_CSS < 0, EMPTY)
        keys_QSS[square_C] = keys_CSS
    keys_HW = keys_QSS.view(down, across, _SIDE, _SIDE).transpose(1, 2).reshape(down * _SIDE, across * _SIDE)
    keys_P = keys_HW[:height, :width].reshape(-1)
    _verify(keys_P, v_D * width + u_D, key_D)
    return keys_P


def _ndc(pixel_D: Tensor) -> Tensor:
    """Centre of a column (or row) of a square as PyTorch3D counts: 1 at the left (top) edge, -1 opposite."""
    return 1 - (2 * pixel_D + 1).float() / _SIDE


def rasterise_squares(ndc: Sequence[Tensor]) -> Tensor:
    """The nearest point of every pixel, C,S,S: its place in the clouds laid end to end, or -1.

    ndc: a cloud of x, y and depth for each of C images of S by S pixels. Raises RewardError when PyTorch3D
    was built without CUDA and the clouds are on a GPU.
    """
    from pytorch3d.renderer.points.rasterize_points import rasterize_points
    from pytorch3d.structures import Pointclouds

    try:
        place_CSS1: Tensor = rasterize_points(
            Pointclouds(points=list(ndc)),
            image_size=(_SIDE, _SIDE),
            radius=_RADIUS * 2 / _SIDE,
            points_per_pixel=1,
            bin_size=0,  # no bins, so that none overflows
        )[0]
    except RuntimeError as error:
        if "GPU support" not in str(error):
            raise
        raise RewardError(
            "this build of pytorch3d has no CUDA: build it on a machine with the CUDA toolkit "
            f"(FORCE_CUDA=1, {INSTALL}), or use --rasteriser torch"
        ) from error
    return place_CSS1[..., 0].long()


def _verify(keys_P: Tensor, pixel_D: Tensor, key_D: Tensor) -> None:
    """Refuse an image in which a pixel shows a farther point than one it holds, or none at all."""
    lost = int((keys_P[pixel_D] > key_D).sum())
    if lost:
        raise RewardError(
            f"pytorch3d left out {lost} of {len(key_D)} points that should be seen, as it does when a bin "
            "overflows; use --rasteriser torch"
        )
