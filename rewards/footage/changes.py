"""Cuts and fades: changes of the whole picture that no motion explains.

A frame is explained by another where the other, moved along dense optical flow (DIS, Kroeger et al. 2016),
has its colour nearby. Shape legend: T frames, H height, W width (small ones), 3 colours.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOLERANCE = 12  # grey levels within which colours are equal: noise, codec, a little shading
_LEAST_INSIDE = 0.25  # of a frame must come from inside the other, or flow is no account of it
# A fade is looked for in windows of 2 * reach + 1 frames, so that short and long ones are seen.
_REACHES = (2, 4, 8)
_LEAST_CHANGE = 0.25  # over a window, of the frame's standard deviation
_STRAIGHT = 0.1  # root mean square distance from the line, of the change


def cut_and_fade(frames_THW3: NDArray[np.uint8]) -> tuple[float | None, float | None]:
    """The two measures of `rewards.footage.footage.Footage`, of small frames."""
    explained = _Explained(frames_THW3.shape[1:3])
    return _cut(frames_THW3, explained), _fade(frames_THW3, explained)


def _cut(frames_THW3: NDArray[np.uint8], explained: _Explained) -> float | None:
    """The largest share that a step leaves unexplained, less the median over steps.

    A clip that falls to pieces at every step is not cut: that is for the reward to say.
    """
    import numpy as np

    if len(frames_THW3) < 3:
        return None
    shares = [explained.share_missing(*step) for step in itertools.pairwise(frames_THW3)]
    return float(max(shares) - np.median(shares))


def _fade(frames_THW3: NDArray[np.uint8], explained: _Explained) -> float | None:
    """The largest share, over windows, that changes along a straight line and is not explained by motion."""
    import numpy as np

    if len(frames_THW3) < 2 * _REACHES[0] + 1:
        return None
    grey_THW = frames_THW3.mean(axis=-1, dtype=np.float32)
    largest = 0.0
    for reach in _REACHES:
        for middle in range(reach, len(grey_THW) - reach, reach):
            straight_HW = _straight(grey_THW[middle - reach : middle + reach + 1], largest)
            # Flow is what costs: only where it can make a difference.
            if straight_HW.mean() > largest:
                missing_HW = explained.missing(frames_THW3[middle - reach], frames_THW3[middle + reach])
                largest = max(largest, float((straight_HW & missing_HW).mean()))
    return largest


def _straight(grey_THW: Any, enough: float) -> Any:
    """Where the brightness of a window runs along a line, and far enough to be seen.

    No more than a first look where this finds no larger share than `enough`.
    """
    import numpy as np

    reach = len(grey_THW) // 2
    first_HW, middle_HW, last_HW = grey_THW[0], grey_THW[reach], grey_THW[-1]
    way_HW = np.abs(last_HW - first_HW)
    needed = max(_TOLERANCE, _LEAST_CHANGE * float(middle_HW.std()))
    looks_HW = (way_HW > needed) & (np.abs(first_HW + last_HW - 2 * middle_HW) < way_HW)
    if looks_HW.mean() <= enough:
        return looks_HW
    time_T = np.arange(-reach, reach + 1, dtype=np.float32)
    spread = float((time_T**2).sum())
    centred_TN = grey_THW[:, looks_HW] - grey_THW[:, looks_HW].mean(axis=0)
    slope_N = (time_T[:, None] * centred_TN).sum(axis=0) / spread
    off_N = np.sqrt(np.maximum((centred_TN**2).sum(axis=0) - slope_N**2 * spread, 0) / len(time_T))
    looks_HW[looks_HW] = off_N < _STRAIGHT * 2 * reach * np.abs(slope_N)
    return looks_HW


class _Explained:
    """Whether a frame of a size is explained by another."""

    def __init__(self, size: tuple[int, ...]) -> None:
        import cv2
        import numpy as np

        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(0)  # the preset stops at a quarter of the frame, which is small already
        self._flow.setPatchStride(5)
        self._flow.setGradientDescentIterations(8)
        height, width = size
        self._x_HW, self._y_HW = np.meshgrid(
            np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        )
        # Below this DIS has no patch to compare.
        self._has_flow = min(size) >= 16

    def missing(self, one_HW3: Any, other_HW3: Any) -> Any:
        """Where the second frame shows what the first does not have there, HW."""
        return self._compare(one_HW3, other_HW3)[0]

    def share_missing(self, one_HW3: Any, other_HW3: Any) -> float:
        """Of the second frame, without what comes in over the sides."""
        missing_HW, inside_HW = self._compare(one_HW3, other_HW3)
        if inside_HW.mean() < _LEAST_INSIDE:
            return float(missing_HW.mean())
        return float(missing_HW[inside_HW].mean())

    def _compare(self, one_HW3: Any, other_HW3: Any) -> tuple[Any, Any]:
        import cv2
        import numpy as np

        x_HW, y_HW = self._x_HW, self._y_HW
        if self._has_flow:
            grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (other_HW3, one_HW3))
            flow_HW2 = self._flow.calc(*grey, None)
            x_HW, y_HW = x_HW + flow_HW2[..., 0], y_HW + flow_HW2[..., 1]
        moved_HW3 = cv2.remap(one_HW3, x_HW, y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # A pixel off is no change: the colour may be anything between those of the neighbours.
        around = np.ones((3, 3), np.uint8)
        high_HW3 = cv2.add(cv2.dilate(moved_HW3, around), (_TOLERANCE,) * 4)
        low_HW3 = cv2.subtract(cv2.erode(moved_HW3, around), (_TOLERANCE,) * 4)
        missing_HW = ((other_HW3 > high_HW3) | (other_HW3 < low_HW3)).any(axis=-1)
        height, width = x_HW.shape
        inside_HW = (x_HW >= 0) & (x_HW <= width - 1) & (y_HW >= 0) & (y_HW <= height - 1)
        return missing_HW, inside_HW
