"""Figures that are reported beside a reward: fidelity of reprojections and agreement of depth maps.

Shape legend: T frames, H height, W width, h, w pixels whose SSIM window fits (H-10, W-10).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.geometry.reconstruction import GeometryBackend, Reconstruction, check_frames, select_frames
from rewards.measures.perceptual import Perceptual
from rewards.measures.quality import SSIM_WINDOW, ssim_map
from rewards.options import ReprojectionOptions
from rewards.rasterise.zbuffer import backproject
from rewards.reprojection import ReprojectionResult, reprojection_error

_WHOLE = 0.999  # share of the bilinear weight that must lie on pixels with a depth


def reprojection_psnr(images_THW3: Tensor, frames_THW3: Tensor, hit_THW: Tensor) -> float:
    """Mean over frames of the PSNR in dB between reprojection and frame, over the pixels that a point hits.

    Frames that no point hits are left out; inf when a frame is met exactly, NaN when nothing is hit.
    """
    seen_T = hit_THW.sum(dim=(1, 2))
    squared_THW = (images_THW3 - frames_THW3).square().mean(dim=-1)
    mse_T = (squared_THW * hit_THW).sum(dim=(1, 2)) / seen_T
    return float(-10.0 * mse_T[seen_T > 0].log10().mean())


def reprojection_ssim(images_THW3: Tensor, frames_THW3: Tensor, hit_THW: Tensor) -> float:
    """Mean over frames of the SSIM between reprojection and frame around the pixels that a point hits.

    A hole shows the frame itself, so that its edge is not seen by the windows beside it. Frames that no point
    hits are left out; NaN when nothing is hit and for frames that are smaller than the window.
    """
    if min(frames_THW3.shape[1:3]) < SSIM_WINDOW:
        return math.nan
    shown_THW3 = torch.where(hit_THW[..., None], images_THW3, frames_THW3)
    map_Thw = ssim_map(shown_THW3, frames_THW3)
    edge = SSIM_WINDOW // 2
    hit_Thw = hit_THW[:, edge:-edge, edge:-edge]
    seen_T = hit_Thw.sum(dim=(1, 2))
    similarity_T = (map_Thw * hit_Thw).sum(dim=(1, 2)) / seen_T
    return float(similarity_T[seen_T > 0].mean())


def multi_view_consistency(reconstruction: Reconstruction, *, normalised: bool = True) -> float:
    """MVCS: exp(-mean over adjacent pairs of mean((D_j(p) - z)^2)), 1 for depth maps that agree.

    The points of frame i are seen by camera j at pixel p and distance z; D_j is read there bilinearly. Only
    points with a depth, in front of camera j and inside its frame count; pairs without any are left out.
    normalised: distances in units of the clip's median depth. Without, the figure is that of the paper's
    code (VideoGPA, arXiv 2601.23286) and depends on the backend's unit of length. A point that another
    surface hides in frame j counts as a disagreement, also in a true scene, as in the paper. NaN when no
    pair can be compared.
    """
    depth_THW = reconstruction.depth_THW
    usable_THW = (depth_THW > 0) & depth_THW.isfinite()
    if reconstruction.num_frames < 2 or not bool(usable_THW.any()):
        return math.nan
    unit = float(depth_THW[usable_THW].median()) if normalised else 1.0
    points_THW3 = backproject(depth_THW, reconstruction.intrinsics_T33, reconstruction.w2c_T34)
    errors = [
        error
        for first in range(reconstruction.num_frames - 1)
        if (error := _depth_error(reconstruction, usable_THW, points_THW3, first, first + 1)) is not None
    ]
    return math.exp(-sum(errors) / len(errors) / unit**2) if errors else math.nan


def _depth_error(
    reconstruction: Reconstruction, usable_THW: Tensor, points_THW3: Tensor, first: int, second: int
) -> float | None:
    """Mean squared difference between the depth map of `second` and the points of `first`, or None."""
    height, width = reconstruction.size
    w2c_34, intrinsics_33 = reconstruction.w2c_T34[second], reconstruction.intrinsics_T33[second]
    points_N3 = points_THW3[first][usable_THW[first]] @ w2c_34[:, :3].T + w2c_34[:, 3]
    points_N3 = points_N3[points_N3[:, 2] > 0]
    projected_N3 = points_N3 @ intrinsics_33.T
    pixel_N2 = projected_N3[:, :2] / projected_N3[:, 2:]
    last_2 = pixel_N2.new_tensor([width - 1, height - 1])
    planes_2HW = torch.stack(
        [torch.where(usable_THW[second], reconstruction.depth_THW[second], 0.0), usable_THW[second].float()]
    )
    grid_N2 = pixel_N2 / last_2.clamp_min(1) * 2 - 1
    read_2N = F.grid_sample(planes_2HW[None], grid_N2[None, None], align_corners=True)[0, :, 0]
    kept_N = ((pixel_N2 >= 0) & (pixel_N2 <= last_2)).all(dim=1) & (read_2N[1] > _WHOLE)
    if not bool(kept_N.any()):
        return None
    return float((read_2N[0] - points_N3[:, 2])[kept_N].square().mean())


def consistency_3d(
    frames_THW3: Tensor,
    backend: GeometryBackend,
    options: ReprojectionOptions | None = None,
    perceptual: Perceptual | None = None,
) -> ReprojectionResult:
    """3DCS: the reprojection error by a geometry model that the reward did not use (VideoGPA's evaluation).

    frames_THW3 are all of a clip's float frames in [0,1], of which `options.frames` are used; options are
    those of the reprojection reward (None: the defaults), perceptual the term they name. The score is -value
    of the result, lower is better. Raises RewardError for what is no clip.
    """
    options = options or ReprojectionOptions()
    check_frames(frames_THW3)
    chosen_KHW3 = frames_THW3[select_frames(frames_THW3.shape[0], options.frames)]
    return reprojection_error(backend.reconstruct(chosen_KHW3), options, perceptual)
