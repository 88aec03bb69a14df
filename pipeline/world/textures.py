"""Soft procedural 32x32 textures: patterns that a small model can learn, with a few marks to track.

Legend: S texture side (32), C colour channels.
"""

from __future__ import annotations

import colorsys
from typing import Final

import numpy as np
from numpy.typing import NDArray

TEXTURE_SIDE: Final = 32
# Name -> hue; saturation and value are drawn per face.
COLOURS: Final[dict[str, float]] = {
    "red": 0.0,
    "orange": 0.075,
    "yellow": 0.14,
    "green": 0.34,
    "teal": 0.48,
    "blue": 0.60,
    "purple": 0.76,
    "pink": 0.91,
}
PATTERNS: Final = ("plain", "striped", "checked", "mottled")
Array = NDArray[np.float64]


def _colour(rng: np.random.Generator, hue: float, value: float) -> Array:
    shifted = (hue + rng.uniform(-0.02, 0.02)) % 1.0
    return np.array(colorsys.hsv_to_rgb(shifted, rng.uniform(0.35, 0.75), value))


def smooth_noise(rng: np.random.Generator, cells: int, side: int = TEXTURE_SIDE) -> Array:
    """Low-frequency noise in [0, 1], shape [side, side]: a random grid, cosine-interpolated."""
    grid = rng.random((cells + 1, cells + 1))
    position = (np.arange(side) + 0.5) / side * cells
    base = np.minimum(position.astype(int), cells - 1)
    mix = (1 - np.cos(np.pi * (position - base))) / 2
    rows = grid[base] * (1 - mix[:, None]) + grid[base + 1] * mix[:, None]
    return np.asarray(rows[:, base] * (1 - mix) + rows[:, base + 1] * mix)


def _pattern_weight(rng: np.random.Generator, pattern: str, cycles: float) -> Array:
    y_SS, x_SS = np.mgrid[0:TEXTURE_SIDE, 0:TEXTURE_SIDE] / TEXTURE_SIDE
    phase = rng.uniform(0, 2 * np.pi, 2)
    if pattern == "striped":
        angle = rng.choice([0.0, np.pi / 2, np.pi / 4, -np.pi / 4])
        along = x_SS * np.cos(angle) + y_SS * np.sin(angle)
        return np.asarray(np.clip(0.5 + 0.9 * np.sin(2 * np.pi * cycles * along + phase[0]), 0, 1))
    if pattern == "checked":
        product = np.sin(2 * np.pi * cycles * x_SS + phase[0]) * np.sin(2 * np.pi * cycles * y_SS + phase[1])
        return np.asarray(np.clip(0.5 + 1.2 * product, 0, 1))
    if pattern == "mottled":
        return np.clip(1.6 * smooth_noise(rng, max(2, round(cycles * 1.5))) - 0.3, 0, 1)
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(np.clip(0.5 + (x_SS - 0.5) * np.cos(angle) + (y_SS - 0.5) * np.sin(angle), 0, 1))


def _add_marks(rng: np.random.Generator, image_SSC: Array, hue: float, marks: int) -> None:
    """Draws a few rectangles of a contrasting colour, in place: something to track on every face."""
    for _ in range(marks):
        width, height = rng.integers(4, 10, 2)
        left, top = rng.integers(1, TEXTURE_SIDE - width), rng.integers(1, TEXTURE_SIDE - height)
        colour = _colour(rng, (hue + rng.uniform(0.25, 0.75)) % 1.0, float(rng.choice([0.25, 0.95])))
        patch = image_SSC[top : top + height, left : left + width]
        patch += 0.7 * (colour - patch)


def _soften(image_SSC: Array) -> Array:
    padded = np.pad(image_SSC, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]


def make_texture(rng: np.random.Generator, hue: float, pattern: str, cycles: float, marks: int) -> Array:
    """A softened texture, float64 [32, 32, 3] in [0, 1]; `cycles` sets the frequency of the pattern."""
    light, dark = rng.uniform(0.7, 0.98), rng.uniform(0.3, 0.55)
    first, second = _colour(rng, hue, light), _colour(rng, hue + rng.uniform(-0.08, 0.08), dark)
    weight_SS1 = _pattern_weight(rng, pattern, cycles)[..., None]
    image_SSC = first * weight_SS1 + second * (1 - weight_SS1)
    image_SSC *= 0.75 + 0.5 * smooth_noise(rng, 3)[..., None]
    _add_marks(rng, image_SSC, hue, marks)
    return np.clip(_soften(image_SSC), 0, 1)
