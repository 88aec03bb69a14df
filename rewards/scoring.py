"""Reward objects: from the frames of a clip to a score with all its components.

Shape legend: T frames of the clip, K frames that are used, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rewards.geometry.reconstruction import (
    GeometryBackend,
    Reconstruction,
    check_frames,
    reconstruct_many,
    select_frames,
)
from rewards.measures.perceptual import load_perceptual
from rewards.measures.quality import detail, image_motion, sharpness
from rewards.metrics import multi_view_consistency, reprojection_psnr, reprojection_ssim
from rewards.options import ReprojectionOptions, versioned
from rewards.reprojection import ReprojectionResult, reprojection_error
from rewards.versions import options_version

_FLAT = 2 / 255  # a frame whose colours differ by less than this shows nothing


@dataclass(frozen=True, kw_only=True)
class RewardResult:
    """A score. value is higher-is-better, or None with a reason; the rest as far as it could be computed.

    image_motion, sharpness and detail are those of `rewards.measures.quality`, of the frames used: whatever
    the reward, a clip that stands still or is soft can be left out by them. sampson is in pixels, over
    measured_pairs pairs of frames; psnr (dB), ssim and mvcs are those of `rewards.metrics`. w2c
    (K*12) and intrinsics (K*9, pixels of the depth map) are row-major. images_KHW3 and error_maps_KHW are the
    reprojections and the squared error per pixel, for whoever wants to look.
    """

    value: float | None
    reason: str | None
    mse: float | None = None
    perceptual: float | None = None
    coverage: float | None = None
    motion: float | None = None
    frame_indices: tuple[int, ...] = ()
    frame_errors: tuple[float, ...] = ()
    w2c: tuple[float, ...] = ()
    intrinsics: tuple[float, ...] = ()
    image_motion: float | None = None
    sharpness: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    mvcs: float | None = None
    sampson: float | None = None
    measured_pairs: int | None = None
    detail: float | None = None
    images_KHW3: Tensor | None = None
    error_maps_KHW: Tensor | None = None


class ReprojectionReward:
    """Minus the reprojection error, with geometry from a backend.

    version identifies everything the value depends on: the code's version, options, geometry model and
    revision.
    """

    name = "reprojection"

    def __init__(
        self,
        *,
        geometry: GeometryBackend,
        options: ReprojectionOptions,
        version: str,
        perceptual_weights: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.geometry = geometry
        self.options = options
        self.version = options_version(version, versioned(options), geometry)
        self._device = torch.device(device)
        self._perceptual = load_perceptual(options.perceptual, weights=perceptual_weights, device=device)

    def score(self, frames_THW3: Tensor) -> RewardResult:
        """Score float frames in [0,1]."""
        return self.score_many([frames_THW3])[0]

    def score_many(self, clips: Sequence[Tensor]) -> list[RewardResult]:
        """Score several clips, with one pass of the geometry model where the backend can."""
        indices = [self._indices(clip) for clip in clips]
        chosen = [clip[index].to(self._device) for clip, index in zip(clips, indices, strict=True)]
        reasons = [unusable(frames) for frames in chosen]
        usable = [frames for frames, reason in zip(chosen, reasons, strict=True) if reason is None]
        reconstructions = iter(reconstruct_many(self.geometry, usable) if usable else [])
        return [
            with_picture(
                RewardResult(value=None, reason=reason)
                if reason
                else self.judge(next(reconstructions), index),
                frames,
                index,
            )
            for index, frames, reason in zip(indices, chosen, reasons, strict=True)
        ]

    def _indices(self, clip_THW3: Tensor) -> list[int]:
        check_frames(clip_THW3)
        return select_frames(clip_THW3.shape[0], self.options.frames)

    def judge(self, reconstruction: Reconstruction, indices: Sequence[int]) -> RewardResult:
        """The result of a clip that has been reconstructed from its frames of those indices."""
        error = reprojection_error(reconstruction, self.options, self._perceptual)
        finite = error.value is None or math.isfinite(error.value)
        result = RewardResult(
            value=error.value if finite else None,
            reason=error.reason if finite else "error is not finite",
            frame_indices=tuple(indices),
            w2c=tuple(reconstruction.w2c_T34.flatten().tolist()),
            intrinsics=tuple(reconstruction.intrinsics_T33.flatten().tolist()),
            mse=error.mse,
            perceptual=error.perceptual,
            coverage=error.coverage,
            motion=error.motion,
            frame_errors=error.frame_errors,
            images_KHW3=error.images_THW3,
            error_maps_KHW=error.error_maps_THW,
        )
        return _with_fidelity(result, reconstruction, error)


def _with_fidelity(
    result: RewardResult, reconstruction: Reconstruction, error: ReprojectionResult
) -> RewardResult:
    """The result with what is stored beside the error and plays no part in it."""
    if error.images_THW3 is None or error.hit_THW is None:
        return result
    drawn = (error.images_THW3, reconstruction.frames_THW3, error.hit_THW)
    return replace(
        result,
        psnr=_finite(reprojection_psnr(*drawn)),
        ssim=_finite(reprojection_ssim(*drawn)),
        mvcs=_finite(multi_view_consistency(reconstruction)),
    )


def with_picture(result: RewardResult, frames_KHW3: Tensor, indices: Sequence[int]) -> RewardResult:
    """The result with which frames were used and what they say alone, which needs no geometry."""
    return replace(
        result,
        frame_indices=tuple(indices),
        image_motion=_finite(image_motion(frames_KHW3)),
        sharpness=_finite(sharpness(frames_KHW3)),
        detail=_finite(detail(frames_KHW3)),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def unusable(frames_KHW3: Tensor) -> str | None:
    """Why frames cannot be scored whatever the geometry, or None."""
    if frames_KHW3.shape[0] < 2:
        return f"{frames_KHW3.shape[0]} frame, at least 2 are needed"
    low_K, high_K = frames_KHW3.flatten(1).aminmax(dim=1)
    if not bool(torch.isfinite(low_K + high_K).all()):
        return "frames are not finite"
    if bool((low_K < 0).any()) or bool((high_K > 1).any()):
        return "frames are outside [0,1]"
    flat = ((high_K - low_K) < _FLAT).nonzero().flatten().tolist()
    if flat:
        return f"frame {flat[0]} of those used is one flat colour"
    return None
