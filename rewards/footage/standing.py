"""Bars, overlays and split screens: what stands in the picture whatever the scene behind it does.

Shape legend: T frames (few, spread over the clip, uint8 grey levels), H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAME = 10  # grey levels that a bar may vary by: the codec's noise
_STEP = 12  # grey levels between two sides of a line
_AXES = ((1, 0), (0, 1))
_DETAIL = 6  # mean gradient, in grey levels a pixel, of a pixel that counts as detail
# How far detail seems to move, in pixels: its change over its gradient. What stands moves by little, and by
# much less than the median of all detail.
_STANDS = 0.2
_STANDS_OF_MEDIAN = 0.15


def bar_edges(grey_THW: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Rows and columns [top, bottom) and [left, right) inside the bars; all of them where there are none.

    A bar is of one colour all the time and ends in a straight line: most of the row behind it is of another.
    The empty ground around an object ends in no line.
    """
    height, width = grey_THW.shape[1:3]
    rows_HTW = grey_THW.transpose(1, 0, 2)
    top, bottom = _bar(rows_HTW), height - _bar(rows_HTW[::-1])
    if top >= bottom:
        return 0, height, 0, width
    columns_WTH = grey_THW[:, top:bottom].transpose(2, 0, 1)
    left, right = _bar(columns_WTH), width - _bar(columns_WTH[::-1])
    return (top, bottom, left, right) if left < right else (top, bottom, 0, width)


def _bar(rows_RTN: Any) -> int:
    """How many of the first rows are a bar."""
    import numpy as np

    low_R, high_R = rows_RTN.min(axis=(1, 2)), rows_RTN.max(axis=(1, 2))
    range_R = np.maximum.accumulate(high_R).astype(int) - np.minimum.accumulate(low_R)
    count = int(np.argmax(range_R > _SAME))
    if not count:
        return 0
    # The row after the last may be of both; the one behind it is not.
    behind_TN = rows_RTN[min(count + 1, len(rows_RTN) - 1)].astype(int)
    differs_N = (np.abs(behind_TN - rows_RTN[:count].mean()) > _SAME).any(axis=0)
    return count if differs_N.mean() > 0.5 else 0


def overlay(grey_THW: NDArray[np.uint8]) -> float:
    """The share of pixels with detail that stands while most detail moves; 0 without detail."""
    import cv2
    import numpy as np

    level_THW = grey_THW.astype(np.float32)
    slopes = [[cv2.Sobel(grey, cv2.CV_32F, *axis, scale=0.125) for axis in _AXES] for grey in level_THW]
    gradient_HW = np.mean([np.hypot(*two) for two in slopes], axis=0)
    change_HW = np.abs(level_THW - level_THW.mean(axis=0)).mean(axis=0)
    detail_HW = gradient_HW > _DETAIL
    if not detail_HW.any():
        return 0.0
    seeming = change_HW[detail_HW] / gradient_HW[detail_HW]
    stands = seeming < min(_STANDS, _STANDS_OF_MEDIAN * float(np.median(seeming)))
    return float(stands.sum() / detail_HW.size)


_AROUND = 3  # pixels beyond a line within which its sides are even
_CONTRAST = 1.5  # of the step at a line, to what its sides vary by
_MARGIN = 10  # lines nearer to a side than a tenth of the picture split nothing off
_MOST_FRAMES = 0.2  # quantile over frames: a line may be faint in a fifth of them


def split_screen(grey_THW: NDArray[np.uint8]) -> float:
    """The share of a straight upright or level line along which the picture jumps in almost every frame.

    A jump is a step across the line that is larger than what both sides vary by near it. The best line
    counts.
    """
    return max(_best_line(grey_THW), _best_line(grey_THW.transpose(0, 2, 1)))


def _best_line(grey_THW: Any) -> float:
    """Of the lines between columns."""
    import numpy as np

    level_THW = np.ascontiguousarray(grey_THW, np.int16)
    width = level_THW.shape[2]
    margin = max(2 + _AROUND, width // _MARGIN)
    if width <= 2 * margin:
        return 0.0
    at = slice(margin, width - margin)

    def step(first: int, second: int) -> Any:
        one, other = (level_THW[:, :, at.start + offset : at.stop + offset] for offset in (first, second))
        return np.abs(one - other)

    # Over two pixels: a line between them is sharp, one inside a pixel that was made small is not.
    across_THW = step(-1, 1)
    sides_THW = np.maximum(step(-1, -1 - _AROUND), step(1, 1 + _AROUND))
    share_TW = ((across_THW > _STEP) & (across_THW > _CONTRAST * sides_THW)).mean(axis=1)
    return float(np.quantile(share_TW, _MOST_FRAMES, axis=0).max())
