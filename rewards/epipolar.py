"""The epipolar reward (Epipolar-DPO): do matches between frames fit one camera motion? No geometry model.

What the number means. The fundamental matrix is estimated from the very matches that are judged, so it takes
up whatever part of a fault looks like another camera; what is left is a lower bound of the fault, across the
epipolar lines. Points that slide along their lines are not seen, nor is anything that a few matches cannot
show. With little parallax (a turning camera, a wall) many matrices fit: then even less of a fault is left.
Compare clips that move alike.
Shape legend: T frames of the clip, K frames that are used, N matches.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewards.frame_reward import FrameReward
from rewards.matching.epipolar_geometry import estimate_fundamental, sampson_distance
from rewards.matching.matches import Matcher, Matches
from rewards.matching.matching import load_matcher
from rewards.options import EpipolarOptions
from rewards.scoring import RewardResult
from rewards.versions import options_version

_FEW, _STILL, _NO_MATRIX = "too few matches", "no motion", "no fundamental matrix"


class EpipolarReward(FrameReward):
    """value = -(mean Sampson distance in pixels over the pairs of frames that can be measured).

    Other sizes of video give other pixels: values compare between clips of one size. Raises RewardError when
    the matcher cannot be loaded.
    """

    name = "epipolar"
    options: EpipolarOptions

    def __init__(self, *, options: EpipolarOptions, version: str, device: str = "cpu", **others: Any) -> None:
        super().__init__(options=options, version=version, device=device, **others)
        self._matcher = load_matcher(
            options.matcher,
            ratio=options.ratio,
            mutual=options.mutual,
            weights=Path(options.matcher_weights) if options.matcher_weights else None,
            device=device,
        )
        # The same weights in another folder give the same values.
        named = {**asdict(options), "matcher_weights": self._matcher.version}
        self.version = options_version(version, named, None)

    def judge(self, frames_KHW3: Tensor) -> RewardResult:
        """The value of frames, or the reason why there is none; sampson and measured_pairs beside it."""
        return _epipolar_result(frames_KHW3, self.options, self._matcher)


@torch.no_grad()
def _epipolar_result(frames_KHW3: Tensor, options: EpipolarOptions, matcher: Matcher) -> RewardResult:
    described = [matcher.describe(frame) for frame in frames_KHW3]
    chosen = frame_pairs(len(described), options.pairs)
    short_side = min(frames_KHW3.shape[1:3])
    found = [
        pair_distance(matcher.match(described[first], described[second]), options, short_side)
        for first, second in chosen
    ]
    distances = [one for one in found if isinstance(one, float)]
    if len(distances) < options.min_share * len(chosen):
        failures = Counter(one for one in found if isinstance(one, str))
        told = ", ".join(f"{count} with {reason}" for reason, count in failures.most_common())
        reason = f"{len(distances)} of {len(chosen)} pairs of frames can be measured: {told}"
        return RewardResult(value=None, reason=reason, measured_pairs=len(distances))
    value = sum(distances) / len(distances)
    return RewardResult(value=-value, reason=None, sampson=value, measured_pairs=len(distances))


def frame_pairs(frames: int, pairs: str) -> list[tuple[int, int]]:
    """Which frames are matched: see `EpipolarOptions`."""
    if pairs == "first":
        return [(0, later) for later in range(1, frames)]
    step = max(1, frames // 2) if pairs == "half" else 1
    return [(first, first + step) for first in range(frames - step)]


def pair_distance(matches: Matches, options: EpipolarOptions, short_side: int) -> float | str:
    """Mean Sampson distance of a pair of frames in pixels, or the reason why it cannot be measured."""
    if len(matches) < options.min_matches:
        return _FEW
    moved_N = (matches.second_N2 - matches.first_N2).norm(dim=1)
    if float(moved_N.median()) < options.min_displacement:
        return _STILL
    fundamental_33 = estimate_fundamental(
        matches.first_N2, matches.second_N2, options.threshold * matches.grain
    )
    if fundamental_33 is None:
        return _NO_MATRIX
    distance_N = sampson_distance(fundamental_33, matches.first_N2, matches.second_N2)
    if options.truncate:
        distance_N = distance_N.clamp_max(options.truncate * short_side / 256)
    return float(distance_N.mean())
