"""The obvious rasteriser: sort all points of a view by depth and paint them from far to near.

Shape legend: N points, V views, H height, W width, P pixels (H*W), D points drawn into one view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewards.rasterise.zbuffer import project, projection


@torch.no_grad()
def paint_views(
    points_N3: Tensor,
    colors_N3: Tensor,
    intrinsics_V33: Tensor,
    w2c_V34: Tensor,
    height: int,
    width: int,
    keep_VN: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `rewards.rasterise.zbuffer.splat_views` draws, painted: image_VHW3, depth_VHW, index_VHW.

    The projection is shared, so that both see the same pixels and depths and only visibility is compared. One
    cloud for all views. Deterministic: the sort is stable over points in reverse, so that of equal depths the
    lowest index is painted last, and only numbers of points are painted, colours are looked up at the end.
    """
    points_13N = points_N3.float().t().contiguous()[None]
    projection_V34 = projection(intrinsics_V33, w2c_V34)
    image_VHW3 = colors_N3.new_zeros(len(w2c_V34), height, width, 3)
    depth_VHW = torch.full((len(w2c_V34), height, width), torch.inf, device=points_13N.device)
    index_VHW = torch.full(depth_VHW.shape, -1, dtype=torch.int64, device=points_13N.device)
    for view in range(len(w2c_V34)):
        keep_1N = None if keep_VN is None else keep_VN[view, None]
        u_1N, v_1N, z_1N, drawn_1N = project(points_13N, projection_V34[view, None], height, width, keep_1N)
        number_D = drawn_1N[0].nonzero().flatten().flip(0)
        number_D = number_D[z_1N[0, number_D].argsort(descending=True, stable=True)]
        pixel_D = v_1N[0, number_D].long() * width + u_1N[0, number_D].long()
        index_P = _paint(index_VHW[view].view(-1), pixel_D, number_D)
        hit_P = index_P >= 0
        image_VHW3[view].view(-1, 3)[hit_P] = colors_N3[index_P[hit_P]]
        depth_VHW[view].view(-1)[hit_P] = z_1N[0, index_P[hit_P]]
    return image_VHW3, depth_VHW, index_VHW


def _paint(index_P: Tensor, pixel_D: Tensor, number_D: Tensor) -> Tensor:
    """Write numbers into pixels in order, in place: the last of a pixel stays.

    With repeated pixels torch keeps the order on one CPU thread only and NumPy always; on a GPU the last is
    found as the highest place in the order.
    """
    if not index_P.is_cuda:
        index_P.numpy()[pixel_D.numpy()] = number_D.numpy()
        return index_P
    place_D = torch.arange(len(pixel_D), device=pixel_D.device)
    last_P = torch.full_like(index_P, -1).scatter_reduce_(0, pixel_D, place_D, "amax")
    painted_P = last_P >= 0
    index_P[painted_P] = number_D[last_P[painted_P]]
    return index_P
