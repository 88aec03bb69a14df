"""What a reward that looks at the frames alone starts from.

Shape legend: T frames of the clip, K frames that are used, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rewards.geometry.reconstruction import GeometryBackend, check_frames, select_frames
from rewards.options import versioned
from rewards.scoring import RewardResult, unusable, with_picture
from rewards.versions import options_version


class FrameReward(ABC):
    """Chooses frames, refuses those that nothing can be said of, and measures how they move and how sharp
    they are; a subclass gives them their value.

    A field `frames` of the options is how many of a clip are used, evenly spread; without it, all are.
    """

    name: str
    geometry: GeometryBackend | None = None

    def __init__(
        self,
        *,
        options: Any,
        version: str,
        geometry: GeometryBackend | None = None,
        perceptual_weights: Path | None = None,
        device: str = "cpu",
    ) -> None:
        """`version` is that of the code; `device` is where a network of the subclass would be."""
        self.options, self.device = options, device
        self.version = options_version(version, versioned(options), None)

    @abstractmethod
    def judge(self, frames_KHW3: Tensor) -> RewardResult:
        """The value of frames in [0,1], float on the CPU, or None with a reason; components beside it."""

    def score(self, frames_THW3: Tensor) -> RewardResult:
        """Score float frames in [0,1]."""
        check_frames(frames_THW3)
        count = frames_THW3.shape[0]
        index = select_frames(count, getattr(self.options, "frames", count))
        frames_KHW3 = frames_THW3[index].float().cpu()
        reason = unusable(frames_KHW3)
        result = RewardResult(value=None, reason=reason) if reason else self.judge(frames_KHW3)
        return with_picture(result, frames_KHW3, index)

    def score_many(self, clips: Sequence[Tensor]) -> list[RewardResult]:
        """Score several clips, one after the other."""
        return [self.score(clip) for clip in clips]
