"""The matchers by name: SIFT through OpenCV, or a learned one (see `rewards.matching.lightglue`).

Shape legend: H height, W width, N matches. Pixels are x, y of the frame, with pixel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from rewards.errors import RewardError
from rewards.matching.matches import Matcher, Matches, enlargement, grey_picture, in_pixels, require_opencv
from rewards.options import MatcherName
from rewards.versions import SIFT

_MATCHERS = get_args(MatcherName)
# OpenCV's default of .04 finds too few places in small, smooth frames. On clips of 64x64, frames half a clip
# apart and mutual matches, .004 measured every true clip; .01 lost an eighth of them, and .002 brought in
# places that are less precise.
_CONTRAST = 0.004
_MOST = 4096  # keypoints of a frame, the strongest


@dataclass(frozen=True, kw_only=True)
class SiftFeatures:
    """Keypoints in pixels of the frame, their descriptors, and the grain of the search."""

    points_N2: Tensor
    descriptors_ND: Any
    grain: float


class _SiftMatcher:
    """SIFT (Lowe 2004): a match is kept when it is closer than `ratio` times the second best.

    mutual: it must be the best in both directions. Frames with a short side below 256 pixels are enlarged
    by a whole factor first. Raises RewardError when OpenCV is not installed.
    """

    name = "sift"
    version = SIFT

    def __init__(self, *, ratio: float = 0.75, mutual: bool = True) -> None:
        self._cv2 = require_opencv()
        self._ratio = ratio
        self._mutual = mutual
        self._sift = self._cv2.SIFT_create(nfeatures=_MOST, contrastThreshold=_CONTRAST)

    def describe(self, frame_HW3: Tensor) -> SiftFeatures:
        """Keypoints of a frame, places that were found twice for their orientations included."""
        factor = enlargement(*frame_HW3.shape[:2])
        found, descriptors = self._sift.detectAndCompute(grey_picture(frame_HW3, factor), None)
        points = np.array([one.pt for one in found], dtype=np.float32).reshape(-1, 2)
        return SiftFeatures(points_N2=in_pixels(points, factor), descriptors_ND=descriptors, grain=1 / factor)

    def match(self, first: SiftFeatures, second: SiftFeatures) -> Matches:
        """Matches between two frames, each pair of places once."""
        forth = self._best(first, second)
        if self._mutual:
            back = set(self._best(second, first))
            forth = [(here, there) for here, there in forth if (there, here) in back]
        here_N2 = first.points_N2[[here for here, _ in forth]]
        there_N2 = second.points_N2[[there for _, there in forth]]
        places_N4 = torch.unique(torch.cat([here_N2, there_N2], dim=1), dim=0)
        return Matches(first_N2=places_N4[:, :2], second_N2=places_N4[:, 2:], grain=first.grain)

    def _best(self, first: SiftFeatures, second: SiftFeatures) -> list[tuple[int, int]]:
        if min(len(first.points_N2), len(second.points_N2)) < 2:  # the ratio needs a second best
            return []
        matcher = self._cv2.BFMatcher(self._cv2.NORM_L2)
        found = matcher.knnMatch(first.descriptors_ND, second.descriptors_ND, k=2)
        return [
            (best.queryIdx, best.trainIdx)
            for best, next in found
            if best.distance < self._ratio * next.distance
        ]


def load_matcher(
    name: str,
    *,
    ratio: float = 0.75,
    mutual: bool = True,
    weights: Path | None = None,
    device: str = "cpu",
) -> Matcher:
    """The matcher by name. ratio and mutual are SIFT's; weights is a folder with the files of the others.

    Raises RewardError for an unknown name, a package that is not installed and weights that are missing.
    """
    if name == "sift":
        return _SiftMatcher(ratio=ratio, mutual=mutual)
    if name not in _MATCHERS:
        raise RewardError(f"matcher '{name}' does not exist; choose one of: {', '.join(_MATCHERS)}")
    from rewards.matching.lightglue import load_lightglue

    return load_lightglue(name.removeprefix("lightglue-"), weights=weights, device=device)
