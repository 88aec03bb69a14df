"""A few tiny grey frames of a clip, by which near-copies are told from other takes of a prompt.

Takes of one first frame and one camera move look alike: a hash of 64 bits a frame, as it finds copies in a
collection, has them nearer to each other than to their own re-encoded copies (docs/footage.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FRAMES = 4
_SIDE = 8


def thumbnail(grey_THW: NDArray[np.uint8]) -> tuple[int, ...]:
    """The grey levels (0 to 255) of 4 grey frames, first and last among them, at 8x8 pixels: 256 numbers.

    A shorter clip has some of its frames more than once. The distance of two clips is the root mean square of
    the differences over the standard deviation of one: `gpa pair` takes it in SQL.
    """
    import cv2

    last = len(grey_THW) - 1
    chosen = [grey_THW[round(place * last / (_FRAMES - 1))] for place in range(_FRAMES)]
    tiny = [cv2.resize(one, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for one in chosen]
    return tuple(int(level) for one in tiny for level in one.ravel())
