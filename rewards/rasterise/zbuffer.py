"""Depth maps to world points, and deterministic splatting: a z-buffer, every point covers one pixel.

Shape legend: T frames, H height, W width.

Shape legend: N points, V views, H height, W width, P pixels of a view (H*W), C points of one block.
"""

from __future__ import annotations

import torch
from torch import Tensor


def backproject(depth_THW: Tensor, intrinsics_T33: Tensor, w2c_T34: Tensor) -> Tensor:
    """World point of every pixel, points_THW3: X = R^T (D K^-1 [u, v, 1]^T - t).

    The camera-to-world form of VideoGPA (arXiv 2601.23286), section 3, written for w2c cameras (OpenCV) and
    pixel centres at integers. Units are those of the depth. The 3x3 matrices are composed in float64, and
    the points themselves come from elementwise float32 operations only, so that they do not depend on the
    number of threads. Raises torch.linalg.LinAlgError when an intrinsic matrix is singular.
    """
    height, width = depth_THW.shape[1:]
    rotation_T33 = w2c_T34[:, :, :3].double().transpose(1, 2)
    ray_T33 = (rotation_T33 @ torch.linalg.inv(intrinsics_T33.double())).float()
    centre_T3 = -(rotation_T33 @ w2c_T34[:, :, 3:].double()).squeeze(-1).float()
    u_W = torch.arange(width, dtype=torch.float32, device=depth_THW.device)
    v_H1 = torch.arange(height, dtype=torch.float32, device=depth_THW.device)[:, None]
    points_THW3 = torch.empty(*depth_THW.shape, 3, dtype=torch.float32, device=depth_THW.device)
    for axis in range(3):
        a_T11, b_T11, c_T11 = (ray_T33[:, axis, column, None, None] for column in range(3))
        direction_THW = (a_T11 * u_W + c_T11) + b_T11 * v_H1
        points_THW3[..., axis] = direction_THW.mul_(depth_THW).add_(centre_T3[:, axis, None, None])
    return points_THW3


EMPTY = torch.iinfo(torch.int64).max  # the key of a pixel that no point reaches
_INDEX_BITS = 32
_MAX_PIXELS = 1 << 24  # pixel numbers are formed in float32, which is exact up to here
# Elements of one (views x points) block. On a CPU the temporaries of a block should stay in the L2 cache.
_BLOCK_CPU = 1 << 16
_BLOCK_GPU = 1 << 24


def splat(
    points_N3: Tensor, colors_N3: Tensor, intrinsics_33: Tensor, w2c_34: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Splat coloured world points into one view: image_HW3, depth_HW, index_HW (int64).

    u = floor(x/z + 0.5), v = floor(y/z + 0.5) with pixel centres at integers; points with z > 0 and in
    bounds are kept, the nearest wins, ties go to the lowest index. Empty pixels are 0, inf and -1. w2c is
    OpenCV, intrinsics are in pixels. The result is identical for any number of threads. Raises ValueError
    for wrong shapes.
    """
    image_VHW3, depth_VHW, index_VHW = splat_views(
        points_N3, colors_N3, intrinsics_33[None], w2c_34[None], height, width
    )
    return image_VHW3[0], depth_VHW[0], index_VHW[0]


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
    """`splat` into V views at once: image_VHW3, depth_VHW, index_VHW.

    keep_VN (bool) says which points each view may use, without copying the cloud. Points and colours may
    also come as points_VN3, colors_VN3, a cloud per view.
    """
    views = intrinsics_V33.shape[0]
    points_XN3 = points_N3 if points_N3.ndim == 3 else points_N3[None]
    check_cloud(points_XN3, colors_N3, intrinsics_V33, w2c_V34, height, width, keep_VN)
    # Coordinates as contiguous rows: strided access would cost more than the arithmetic.
    points_X3N = points_XN3.float().transpose(1, 2).contiguous()
    projection_V34 = projection(intrinsics_V33, w2c_V34)
    keys_VP = torch.full((views, height * width), EMPTY, dtype=torch.int64, device=points_X3N.device)
    count = points_X3N.shape[2]
    block = _BLOCK_GPU if points_X3N.is_cuda else _BLOCK_CPU
    view_step = max(1, min(views, block // max(1, count)))
    for view in range(0, views, view_step):
        rows = slice(view, view + view_step)
        cloud_X3N = points_X3N if points_X3N.shape[0] == 1 else points_X3N[rows]
        for start in range(0, count, block):
            columns = slice(start, start + block)
            keep_VC = None if keep_VN is None else keep_VN[rows, columns]
            pixel_VC, key_VC = _pixels_and_keys(
                cloud_X3N[:, :, columns], projection_V34[rows], height, width, start, keep_VC
            )
            _keep_nearest(keys_VP[rows], pixel_VC, key_VC)
    return resolve(keys_VP, colors_N3, height, width)


def check_cloud(
    points_XN3: Tensor,
    colors_N3: Tensor,
    intrinsics_V33: Tensor,
    w2c_V34: Tensor,
    height: int,
    width: int,
    keep_VN: Tensor | None,
) -> None:
    """Raise ValueError unless cloud (of one view or of each), cameras and mask fit together."""
    views, count = intrinsics_V33.shape[0], points_XN3.shape[1]
    if points_XN3.shape[2] != 3 or points_XN3.shape[0] not in (1, views):
        raise ValueError(f"points must have shape (N, 3) or ({views}, N, 3), got {tuple(points_XN3.shape)}")
    if colors_N3.shape[-2:] != (count, 3) or colors_N3.shape[:-2] not in ((), (views,)):
        raise ValueError(f"colors must have shape ({count}, 3), one per point, got {tuple(colors_N3.shape)}")
    if intrinsics_V33.shape[1:] != (3, 3) or w2c_V34.shape != (views, 3, 4):
        raise ValueError(
            f"cameras must be (V, 3, 3), (V, 3, 4), got {tuple(intrinsics_V33.shape)}, {tuple(w2c_V34.shape)}"
        )
    if keep_VN is not None and (keep_VN.shape != (views, count) or keep_VN.dtype != torch.bool):
        raise ValueError(
            f"keep_VN must be bool ({views}, {count}), got {keep_VN.dtype} {tuple(keep_VN.shape)}"
        )
    if height < 1 or width < 1 or height * width > _MAX_PIXELS:
        raise ValueError(f"height x width must be 1 to {_MAX_PIXELS} pixels, got {height}x{width}")
    if count >= 1 << 31:
        raise ValueError(f"at most {(1 << 31) - 1} points can be numbered, got {count}; splat fewer frames")


def _row(points_X3C: Tensor, matrix_V34: Tensor, row: int) -> Tensor:
    """One row of the projection, V,C. Separate multiplications and additions, because a fused one rounds
    differently in the vector body and in the tail of a thread's share, and the share depends on the threads.
    """
    a_V1, b_V1, c_V1, d_V1 = (matrix_V34[:, row, column, None] for column in range(4))
    result_VC = points_X3C[:, 0] * a_V1
    result_VC += points_X3C[:, 1] * b_V1
    result_VC += points_X3C[:, 2] * c_V1
    result_VC += d_V1
    return result_VC


def projection(intrinsics_V33: Tensor, w2c_V34: Tensor) -> Tensor:
    """Matrix from world to pixels times depth, projection_V34, composed in float64."""
    return (intrinsics_V33.double() @ w2c_V34.double()).float()


def project(
    points_X3C: Tensor, projection_V34: Tensor, height: int, width: int, keep_VC: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Column u_VC and row v_VC (whole numbers as floats), depth z_VC, and drawn_VC (bool) of each point.

    Rounding is floor(x + 0.5), not half-to-even: a cloud shifted by half a pixel then stays one point per
    pixel, while half-to-even would send pairs of neighbours to even pixels and leave holes at odd ones.
    """
    z_VC = _row(points_X3C, projection_V34, 2)
    u_VC = _row(points_X3C, projection_V34, 0).div_(z_VC).add_(0.5).floor_()
    v_VC = _row(points_X3C, projection_V34, 1).div_(z_VC).add_(0.5).floor_()
    drawn_VC = (z_VC > 0) & (u_VC >= 0) & (u_VC < width) & (v_VC >= 0) & (v_VC < height)
    drawn_VC &= z_VC < torch.inf
    if keep_VC is not None:
        drawn_VC &= keep_VC
    return u_VC, v_VC, z_VC, drawn_VC


def sort_keys(z_VC: Tensor, number_C: Tensor) -> Tensor:
    """The bit pattern of the depth (ordered like the depth itself, as it is positive) above the number."""
    return z_VC.view(torch.int32).to(torch.int64).bitwise_left_shift_(_INDEX_BITS).add_(number_C)


def _pixels_and_keys(
    points_X3C: Tensor, projection_V34: Tensor, height: int, width: int, start: int, keep_VC: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Pixel number and sort key of each point in each view; points not drawn get the key EMPTY."""
    u_VC, v_VC, z_VC, drawn_VC = project(points_X3C, projection_V34, height, width, keep_VC)
    number_C = torch.arange(z_VC.shape[1], device=z_VC.device)
    # Points not drawn are spread over the pixels (their key changes nothing there): one shared pixel would
    # make the atomic operations of a GPU queue up.
    pixel_VC = torch.where(drawn_VC, v_VC.mul_(width).add_(u_VC), (number_C % (height * width)).float())
    return pixel_VC.to(torch.int64), sort_keys(z_VC, number_C + start).masked_fill_(~drawn_VC, EMPTY)


def _keep_nearest(keys_VP: Tensor, pixel_VC: Tensor, key_VC: Tensor) -> None:
    """Minimum key per pixel, in place: a minimum of integers is the same in any order."""
    views, pixels = keys_VP.shape
    if views > 1:
        pixel_VC = pixel_VC.add_(torch.arange(views, device=pixel_VC.device)[:, None] * pixels)
    keys_VP.view(-1).scatter_reduce_(0, pixel_VC.view(-1), key_VC.view(-1), "amin")


def resolve(keys_VP: Tensor, colors_N3: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """image_VHW3, depth_VHW and index_VHW of the nearest keys."""
    views = keys_VP.shape[0]
    empty_VP = keys_VP == EMPTY
    index_VP = keys_VP.bitwise_and((1 << _INDEX_BITS) - 1).masked_fill_(empty_VP, -1)
    depth_VP = (keys_VP >> _INDEX_BITS).to(torch.int32).view(torch.float32).masked_fill_(empty_VP, torch.inf)
    image_VP3 = torch.zeros(views, height * width, 3, dtype=colors_N3.dtype, device=colors_N3.device)
    if colors_N3.shape[-2]:
        source_VP = index_VP.clamp(min=0)
        if colors_N3.ndim == 2:
            image_VP3 = colors_N3[source_VP]
        else:
            image_VP3 = colors_N3.gather(1, source_VP[..., None].expand(-1, -1, 3))
        image_VP3.masked_fill_(empty_VP[..., None], 0)
    return (
        image_VP3.view(views, height, width, 3),
        depth_VP.view(views, height, width),
        index_VP.view(views, height, width),
    )
