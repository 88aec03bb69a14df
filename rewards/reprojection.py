"""The reprojection error of a reconstructed clip (VideoGPA, arXiv 2601.23286, section 3).

Shape legend: T frames (also the views drawn), H height, W width, N points (T*H*W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.geometry.reconstruction import Reconstruction
from rewards.measures.perceptual import Perceptual
from rewards.measures.quality import camera_motion
from rewards.options import ReprojectionOptions
from rewards.rasterise.rasterisers import find_rasteriser
from rewards.rasterise.zbuffer import backproject


@dataclass(frozen=True, kw_only=True)
class ReprojectionResult:
    """The score of a clip and what it is made of.

    value = -(mean frame error), higher is better, or None with a reason. mse, perceptual and coverage are
    means over frames; perceptual is None without a perceptual term; motion as in `camera_motion`.
    frame_errors has one error per frame. images_THW3 are the reprojections, hit_THW (bool) says where a point
    landed, and error_maps_THW are the squared error per pixel (0 in holes that are masked). Everything a
    failed score could not compute is None or empty.
    """

    value: float | None
    reason: str | None
    mse: float | None = None
    perceptual: float | None = None
    coverage: float | None = None
    motion: float | None = None
    frame_errors: tuple[float, ...] = ()
    images_THW3: Tensor | None = None
    hit_THW: Tensor | None = None
    error_maps_THW: Tensor | None = None


def reprojection_error(
    reconstruction: Reconstruction, options: ReprojectionOptions, perceptual: Perceptual | None = None
) -> ReprojectionResult:
    """Splat the cloud of all frames back into every frame and compare.

    Works on any reconstruction, predicted or true. Raises ValueError when `perceptual` is not what the
    options name.
    """
    if (perceptual.name if perceptual else "none") != options.perceptual:
        raise ValueError(
            f"perceptual must be the term '{options.perceptual}' that the options name, got {perceptual}"
        )
    reason = unscorable(reconstruction)
    if reason:
        return ReprojectionResult(value=None, reason=reason)
    images_THW3, hit_THW = _reproject(reconstruction, options.views, options.rasteriser)
    return _compare(reconstruction, images_THW3, hit_THW, options, perceptual)


def unscorable(reconstruction: Reconstruction) -> str | None:
    """Why a reconstruction cannot be scored, or None."""
    if reconstruction.num_frames < 2:
        return f"{reconstruction.num_frames} frame, at least 2 are needed"
    for field in ("depth_THW", "intrinsics_T33", "w2c_T34"):
        if not bool(getattr(reconstruction, field).isfinite().all()):
            return f"geometry is not finite ({field.split('_')[0]})"
    if not bool((reconstruction.depth_THW > 0).any()):
        return "no depth is positive"
    focal_T2 = reconstruction.intrinsics_T33.diagonal(dim1=1, dim2=2)[:, :2]
    if not bool((focal_T2 > 0).all()):
        return "focal length is not positive"
    return None


@torch.no_grad()
def _reproject(
    reconstruction: Reconstruction, views: str, rasteriser: str = "torch"
) -> tuple[Tensor, Tensor]:
    """Every frame drawn from the points of all frames or of the others: images_THW3 and hit_THW (bool)."""
    frames = reconstruction.num_frames
    height, width = reconstruction.size
    points_THW3 = backproject(reconstruction.depth_THW, reconstruction.intrinsics_T33, reconstruction.w2c_T34)
    images_THW3, _, index_THW = find_rasteriser(rasteriser, reconstruction.depth_THW.device.type)(
        points_THW3.view(-1, 3),
        reconstruction.frames_THW3.reshape(-1, 3),
        reconstruction.intrinsics_T33,
        reconstruction.w2c_T34,
        height,
        width,
        _keep(reconstruction.depth_THW.reshape(frames, -1), views),
    )
    return images_THW3, index_THW >= 0


def _keep(depth_TP: Tensor, views: str) -> Tensor | None:
    """Which points each view may use: those in front of their own camera; not its own for "others"."""
    frames = depth_TP.shape[0]
    in_front_TP = depth_TP > 0
    if views == "all" and bool(in_front_TP.all()):
        return None
    keep_TTP = in_front_TP.expand(frames, *in_front_TP.shape).clone()
    if views == "others":
        own = torch.arange(frames, device=depth_TP.device)
        keep_TTP[own, own] = False
    return keep_TTP.view(frames, -1)


def _compare(
    reconstruction: Reconstruction,
    images_THW3: Tensor,
    hit_THW: Tensor,
    options: ReprojectionOptions,
    perceptual: Perceptual | None,
) -> ReprojectionResult:
    frames_THW3 = reconstruction.frames_THW3
    coverage_T = hit_THW.float().mean(dim=(1, 2))
    motion = camera_motion(reconstruction.w2c_T34, reconstruction.depth_THW)
    coverage = float(coverage_T.mean())
    masked = options.holes == "masked"
    unseen = (coverage_T == 0).nonzero().flatten().tolist()
    if coverage == 0 or (masked and unseen):
        where = "any frame" if coverage == 0 else f"frame {unseen[0]}"
        reason = (
            f"no point of another frame lands in {where}"
            if options.views == "others"
            else f"no point lands in {where}"
        )
        return ReprojectionResult(value=None, reason=reason, coverage=coverage, motion=motion)
    # With holes masked, a hole shows the frame itself: no squared error, and no edge for the perceptual
    # term to see.
    shown_THW3 = torch.where(hit_THW[..., None], images_THW3, frames_THW3) if masked else images_THW3
    difference_THW3 = shown_THW3 - frames_THW3
    maps_THW = difference_THW3.square().mean(dim=-1)
    share_T = coverage_T if masked else torch.ones_like(coverage_T)
    mse_T = maps_THW.mean(dim=(1, 2)) / share_T
    error_T = mse_T
    if options.photometric == "l1":
        error_T = difference_THW3.abs().mean(dim=(1, 2, 3)) / share_T
    if masked:
        error_T = error_T + options.hole_penalty * (1 - coverage_T)
    distance_T = perceptual(shown_THW3, frames_THW3) if perceptual else None
    if distance_T is not None:
        error_T = error_T + options.perceptual_weight * distance_T
    return ReprojectionResult(
        value=-float(error_T.mean()),
        reason=None,
        mse=float(mse_T.mean()),
        perceptual=None if distance_T is None else float(distance_T.mean()),
        coverage=coverage,
        motion=motion,
        frame_errors=tuple(error_T.tolist()),
        images_THW3=images_THW3,
        hit_THW=hit_THW,
        error_maps_THW=maps_THW,
    )
