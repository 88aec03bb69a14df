"""The epipolar column: matches and fundamental matrices of the clip itself, without a geometry model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.evaluation.judges.judge import JudgedClip, Measure
from rewards.options import EpipolarOptions
from rewards.table import reward_version

if TYPE_CHECKING:
    from rewards.epipolar import EpipolarReward


class EpipolarJudge:
    """The mean Sampson distance of matches half a clip apart; see `rewards.epipolar` for what it means."""

    name = "epipolar"
    license = "Apache-2.0"
    measures: tuple[Measure, ...] = (
        Measure(name="epipolar", better=-1, about="distance of matches to their epipolar lines, in pixels"),
    )

    def __init__(self, frames: int = 10) -> None:
        self._options = EpipolarOptions(frames=frames)
        self.version = reward_version("epipolar", self._options, None)
        self._reward: EpipolarReward | None = None

    def setup(self, device: str) -> None:
        """Make the matcher."""
        from rewards.epipolar import EpipolarReward

        self._reward = EpipolarReward(options=self._options, version=self.version, device=device)

    def measure(self, clip: JudgedClip) -> dict[str, float]:
        """The distance; NaN for a clip that stands still or has too few matches."""
        assert self._reward is not None, "setup comes first"
        value = self._reward.score(clip.frames_THW3).value
        return {"epipolar": math.nan if value is None else -value}
