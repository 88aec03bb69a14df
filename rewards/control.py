"""A reward that knows nothing: the control that tells learning from a preference from training on anything.

Shape legend: K frames that are used, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from rewards.geometry.reconstruction import Reconstruction
from rewards.scoring import ReprojectionReward, RewardResult


class RandomReward(ReprojectionReward):
    """A draw from [-1, 0) in place of the reprojection reward, all components beside it kept.

    The draw is a hash of the frames, so it is the same in every worker and on every run.
    """

    name = "random"

    def judge(self, reconstruction: Reconstruction, indices: Sequence[int]) -> RewardResult:
        """The components of the reprojection, and a draw in place of its value."""
        result = super().judge(reconstruction, indices)
        if result.value is None:
            return result
        pixels = (reconstruction.frames_THW3 * 255).round().byte().cpu().numpy().tobytes()
        draw = int.from_bytes(hashlib.sha256(pixels).digest()[:6], "big") / 2**48
        return replace(result, value=draw - 1.0)
