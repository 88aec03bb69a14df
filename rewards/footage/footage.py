"""What a reward of 3D consistency takes for geometry and is none, measured from the frames alone.

Shape legend: T frames, H height, W width, h w those of small frames, 3 colours (RGB).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rewards.footage.changes import cut_and_fade
from rewards.footage.standing import bar_edges, overlay, split_screen
from rewards.footage.thumbnails import thumbnail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Short sides in pixels. Changes are those of the whole picture and need every frame; what stands still is
# thin, and a few frames tell it.
_SMALL = 64
_FINE = 192
_FINE_FRAMES = 9


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Shares in [0, 1]; 0 is footage of one scene that fills the picture.

    cut: of a frame, what the frame before does not explain beyond what is usual in the clip; None for fewer
    than three frames. fade: of the picture, what runs to another brightness in a straight line, as in a fade
    and a dissolve; None for fewer than five. bars: of the picture, under bars at its sides. overlay: of the
    picture, detail that stands still while most detail moves, as in subtitles and logos; a camera at rest
    before which something moves has it too. split_screen: of the length of a straight line across the
    picture, where two pictures meet at it all the time. thumbnail is that of `rewards.footage.thumbnails`.
    """

    cut: float | None
    fade: float | None
    bars: float
    overlay: float
    split_screen: float
    thumbnail: tuple[int, ...]

    def as_dict(self) -> dict[str, float | None]:
        """The shares."""
        return {name: value for name, value in asdict(self).items() if name != "thumbnail"}


def measure_footage(frames_THW3: NDArray[np.uint8]) -> Footage:
    """Measure a clip of uint8 RGB frames of any size and number.

    The frames are made small first: a clip costs about a third of its decoding. Raises ValueError for
    another dtype or shape.
    """
    shape = frames_THW3.shape
    if frames_THW3.dtype != "uint8" or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        got = f"{frames_THW3.dtype} {shape}"
        raise ValueError(f"frames_THW3 must be uint8 [T,H,W,3] with a frame, got {got}: scale [0,1] by 255")
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the flow walks in stripes, one a thread: their borders would show in the result
    try:
        return _measured(frames_THW3)
    finally:
        cv2.setNumThreads(threads)


def _measured(frames_THW3: NDArray[np.uint8]) -> Footage:
    small_ThW3 = _reduced(frames_THW3, _SMALL)
    cut, fade = cut_and_fade(small_ThW3)
    fine_ThW = _grey(_reduced(frames_THW3[_spread(len(frames_THW3), _FINE_FRAMES)], _FINE))
    top, bottom, left, right = bar_edges(fine_ThW)
    inner_ThW = fine_ThW[:, top:bottom, left:right]
    return Footage(
        cut=cut,
        fade=fade,
        bars=1 - inner_ThW.size / fine_ThW.size,
        overlay=overlay(inner_ThW),
        split_screen=split_screen(inner_ThW),
        thumbnail=thumbnail(_grey(small_ThW3)),
    )


def _grey(frames_THW3: Any) -> Any:
    """Their luminance, as uint8."""
    import cv2
    import numpy as np

    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_THW3])


def _spread(count: int, most: int) -> list[int]:
    """At most so many indices, from the first to the last."""
    number = min(count, most)
    return [index * (count - 1) // max(1, number - 1) for index in range(number)]


def _reduced(frames_THW3: NDArray[np.uint8], short_side: int) -> Any:
    """Frames with their short side averaged down to so many pixels; smaller ones as they are."""
    import cv2
    import numpy as np

    height, width = frames_THW3.shape[1:3]
    factor = min(height, width) / short_side
    if factor <= 1:
        return frames_THW3
    size = (round(width / factor), round(height / factor))

    def smaller(frame_HW3: Any) -> Any:
        while min(frame_HW3.shape[:2]) >= 4 * short_side:  # by two it is many times as fast
            half = (frame_HW3.shape[1] // 2, frame_HW3.shape[0] // 2)
            frame_HW3 = cv2.resize(frame_HW3, half, interpolation=cv2.INTER_AREA)
        return cv2.resize(frame_HW3, size, interpolation=cv2.INTER_AREA)

    return np.stack([smaller(frame) for frame in frames_THW3])
