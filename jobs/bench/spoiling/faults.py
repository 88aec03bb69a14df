"""Clips that are spoilt as footage is: cut, faded, barred, written on, put side by side.

Legend: T frames, H height, W width, uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.uint8]


class Fault(NamedTuple):
    """What makes it from a clip and another one of the same shape, and the measure that is to find it."""

    measure: str
    make: Callable[[Clip, Clip], Clip]


def _cut(one: Clip, other: Clip) -> Clip:
    """The other clip from the middle on."""
    middle = len(one) // 2
    return np.concatenate([one[:middle], other[middle:]])


def _mixed(one: Clip, other: Any, start: int, length: int) -> Clip:
    """From one to the other over so many frames."""
    share = np.clip((np.arange(len(one)) - start) / (length - 1), 0, 1)[:, None, None, None]
    mixed: Clip = (one * (1 - share) + other * share).round().astype(np.uint8)
    return mixed


def _to(level: int) -> Callable[[Clip, Clip], Clip]:
    """A fade to black or white over the last half."""
    return lambda one, _: _mixed(one, level, len(one) - len(one) // 2, len(one) // 2)


def _dissolve(one: Clip, other: Clip) -> Clip:
    """From one to the other over the middle half."""
    return _mixed(one, other, len(one) // 4, len(one) // 2)


def _bars(share: float, axis: int) -> Callable[[Clip, Clip], Clip]:
    """The clip made smaller along an axis (1: rows, 2: columns), black at both sides."""

    def make(one: Clip, _: Clip) -> Clip:
        size = list(one.shape[1:3])
        bar = max(1, round(size[axis - 1] * share / 2))
        size[axis - 1] -= 2 * bar
        inner = [cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_AREA) for frame in one]
        widths = [(0, 0)] * 4
        widths[axis] = (bar, bar)
        return np.pad(np.stack(inner), widths)

    return make


def _drawn(draw: Callable[[Any, int, int], None]) -> Callable[[Clip, Clip], Clip]:
    def make(one: Clip, _: Clip) -> Clip:
        marked = np.ascontiguousarray(one.copy())
        for frame in marked:
            draw(frame, *frame.shape[:2])
        return marked

    return make


def _subtitle(frame: Any, height: int, width: int) -> None:
    """White letters with a black border, a fourteenth of the picture high, at the bottom."""
    text, font = "and then he said nothing", cv2.FONT_HERSHEY_SIMPLEX
    (long, _), _ = cv2.getTextSize(text, font, 1, 1)
    scale = min(height / 14 / 22, 0.9 * width / long)
    thick = max(1, round(1.6 * scale))
    place = (round((width - scale * long) / 2), round(0.9 * height))
    cv2.putText(frame, text, place, font, scale, (0, 0, 0), 2 * thick + 1, cv2.LINE_AA)
    cv2.putText(frame, text, place, font, scale, (255, 255, 255), thick, cv2.LINE_AA)


def _logo(frame: Any, height: int, width: int) -> None:
    """Three discs on one another in a corner, a seventh of the picture high."""
    radius = height // 14
    place = (width - radius - height // 20, radius + height // 20)
    for part, colour in ((3, (220, 30, 30)), (2, (255, 255, 255)), (1, (20, 20, 20))):
        cv2.circle(frame, place, max(1, radius * part // 3), colour, -1, cv2.LINE_AA)


def _beside(axis: int) -> Callable[[Clip, Clip], Clip]:
    """The middles of both clips, next to one another."""

    def make(one: Clip, other: Clip) -> Clip:
        size = one.shape[axis]
        half = slice(size // 4, size // 4 + size // 2)
        rest = slice(size // 4, size // 4 + size - size // 2)
        return np.concatenate([np.take(one, _range(half), axis), np.take(other, _range(rest), axis)], axis)

    return make


def _range(part: slice) -> range:
    return range(part.start, part.stop)


FAULTS: Final[dict[str, Fault]] = {
    "cut": Fault("cut", _cut),
    "to black": Fault("fade", _to(0)),
    "to white": Fault("fade", _to(255)),
    "dissolve": Fault("fade", _dissolve),
    "letterbox 25 %": Fault("bars", _bars(0.25, 1)),
    "letterbox 6 %": Fault("bars", _bars(0.06, 1)),
    "pillarbox 25 %": Fault("bars", _bars(0.25, 2)),
    "subtitle": Fault("overlay", _drawn(_subtitle)),
    "logo": Fault("overlay", _drawn(_logo)),
    "side by side": Fault("split_screen", _beside(2)),
    "over, under": Fault("split_screen", _beside(1)),
}


def _half(one: Clip) -> Clip:
    """Of half the size, and back: what a small copy of a video shows."""
    height, width = one.shape[1:3]
    small = [cv2.resize(frame, (width // 2, height // 2), interpolation=cv2.INTER_AREA) for frame in one]
    return np.stack([cv2.resize(frame, (width, height)) for frame in small])


# The same video, kept in another way.
COPIES: Final[dict[str, Callable[[Clip], Clip]]] = {
    "encoded again": lambda one: one,
    "at half size": _half,
    "a frame later": lambda one: np.concatenate([one[1:], one[-1:]]),
}
