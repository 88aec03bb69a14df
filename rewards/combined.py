"""The combined reward: colours and matches must both agree with one rigid scene, per unit of motion.

The reprojection error sees what the geometry model explains away least at edges; the distance of matches to
the epipolar lines of the predicted cameras sees displacements that leave colours alike. Each alone prefers
clips that move less, so their product is taken per image motion.
Shape legend: K frames that are used, P pairs of frames, N matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rewards.geometry.reconstruction import Reconstruction
from rewards.matching.epipolar_geometry import epipolar_distance
from rewards.matching.matches import dense_matches, require_opencv
from rewards.measures.quality import image_motion
from rewards.options import CombinedOptions
from rewards.scoring import ReprojectionReward, RewardResult

_MIN_MATCHES = 20


class CombinedReward(ReprojectionReward):
    """value = -sqrt(reprojection error * mean Sampson distance / image motion): the geometric mean of both.

    The reprojection error is that of `reprojection_error` with these options, the Sampson distance is in
    pixels of the depth map to the epipolar lines of the geometry model's cameras.
    """

    name = "combined"
    options: CombinedOptions

    def judge(self, reconstruction: Reconstruction, indices: Sequence[int]) -> RewardResult:
        """The result of a clip that has been reconstructed from its frames of those indices."""
        require_opencv()
        result = super().judge(reconstruction, indices)
        if result.value is None:
            return result
        motion = image_motion(reconstruction.frames_THW3)
        if not motion >= self.options.min_image_motion:
            reason = (
                f"the clip stands still: image motion {motion:.3g} is below {self.options.min_image_motion:g}"
            )
            return replace(result, value=None, reason=reason)
        sampson, measured, pairs = measure_matches(reconstruction, self.options.pairs)
        if sampson is None:
            reason = f"{measured} of {pairs} pairs of frames have {_MIN_MATCHES} matches, half are needed"
            return replace(result, value=None, reason=reason, measured_pairs=measured)
        value = -((-result.value * sampson / motion) ** 0.5)
        return replace(result, value=value, sampson=sampson, measured_pairs=measured)


def measure_matches(reconstruction: Reconstruction, pairs: str) -> tuple[float | None, int, int]:
    """Mean Sampson distance over pairs of frames in pixels, pairs that could be measured, and all pairs.

    None when fewer than half of them have enough matches.
    """
    frames = reconstruction.num_frames
    step = max(1, frames // 2)
    chosen = (
        [(0, later) for later in range(1, frames)]
        if pairs == "first"
        else [(first, first + step) for first in range(frames - step)]
    )
    distances = [found for pair in chosen if (found := _mean_distance(reconstruction, *pair)) is not None]
    if 2 * len(distances) < len(chosen):
        return None, len(distances), len(chosen)
    return sum(distances) / len(distances), len(distances), len(chosen)


@torch.no_grad()
def _mean_distance(reconstruction: Reconstruction, first: int, second: int) -> float | None:
    here_N2, there_N2 = dense_matches(reconstruction.frames_THW3[first], reconstruction.frames_THW3[second])
    if here_N2.shape[0] < _MIN_MATCHES:
        return None
    depth_HW = reconstruction.depth_THW[first]
    distance_N = epipolar_distance(
        reconstruction.w2c_T34[first].cpu(),
        reconstruction.w2c_T34[second].cpu(),
        reconstruction.intrinsics_T33[first].cpu(),
        reconstruction.intrinsics_T33[second].cpu(),
        here_N2,
        there_N2,
        float(depth_HW[depth_HW > 0].median()),
    )
    return float(distance_N.mean())
