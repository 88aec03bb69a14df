"""Static scenes: a textured room with three or four axis-aligned boxes standing in it.

Textures are soft patterns that a small model can learn, with a few marks to track. All randomness flows from
hashes of names, so that a scene id means one scene for ever. World coordinates are metres with y pointing
down (as the cameras of OpenCV): the floor is the largest y.
Legend: B boxes (index 0 is the room, seen from inside), F faces (six a box), S texture side (32), C colours.
"""

from __future__ import annotations

import colorsys
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def stable_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on the parts only, not on the process or on the machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stable_generator(*parts: str | int) -> np.random.Generator:
    """A random generator seeded by `stable_seed` of the parts."""
    return np.random.default_rng(stable_seed(*parts))


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
_Array = NDArray[np.float64]


def _colour(rng: np.random.Generator, hue: float, value: float) -> _Array:
    shifted = (hue + rng.uniform(-0.02, 0.02)) % 1.0
    return np.array(colorsys.hsv_to_rgb(shifted, rng.uniform(0.35, 0.75), value))


def _smooth_noise(rng: np.random.Generator, cells: int, side: int = TEXTURE_SIDE) -> _Array:
    """Low-frequency noise in [0, 1], shape [side, side]: a random grid, cosine-interpolated."""
    grid = rng.random((cells + 1, cells + 1))
    position = (np.arange(side) + 0.5) / side * cells
    base = np.minimum(position.astype(int), cells - 1)
    mix = (1 - np.cos(np.pi * (position - base))) / 2
    rows = grid[base] * (1 - mix[:, None]) + grid[base + 1] * mix[:, None]
    return np.asarray(rows[:, base] * (1 - mix) + rows[:, base + 1] * mix)


def _pattern_weight(rng: np.random.Generator, pattern: str, cycles: float) -> _Array:
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
        return np.clip(1.6 * _smooth_noise(rng, max(2, round(cycles * 1.5))) - 0.3, 0, 1)
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(np.clip(0.5 + (x_SS - 0.5) * np.cos(angle) + (y_SS - 0.5) * np.sin(angle), 0, 1))


def _add_marks(rng: np.random.Generator, image_SSC: _Array, hue: float, marks: int) -> None:
    """Draws a few rectangles of a contrasting colour, in place: something to track on every face."""
    for _ in range(marks):
        width, height = rng.integers(4, 10, 2)
        left, top = rng.integers(1, TEXTURE_SIDE - width), rng.integers(1, TEXTURE_SIDE - height)
        colour = _colour(rng, (hue + rng.uniform(0.25, 0.75)) % 1.0, float(rng.choice([0.25, 0.95])))
        patch = image_SSC[top : top + height, left : left + width]
        patch += 0.7 * (colour - patch)


def _soften(image_SSC: _Array) -> _Array:
    padded = np.pad(image_SSC, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]


def _make_texture(rng: np.random.Generator, hue: float, pattern: str, cycles: float, marks: int) -> _Array:
    """A softened texture, float64 [32, 32, 3] in [0, 1]; `cycles` sets the frequency of the pattern."""
    light, dark = rng.uniform(0.7, 0.98), rng.uniform(0.3, 0.55)
    first, second = _colour(rng, hue, light), _colour(rng, hue + rng.uniform(-0.08, 0.08), dark)
    weight_SS1 = _pattern_weight(rng, pattern, cycles)[..., None]
    image_SSC = first * weight_SS1 + second * (1 - weight_SS1)
    image_SSC *= 0.75 + 0.5 * _smooth_noise(rng, 3)[..., None]
    _add_marks(rng, image_SSC, hue, marks)
    return np.clip(_soften(image_SSC), 0, 1)


# Brightness of a face by axis and side (low, high): x walls, ceiling and floor, near and far.
_SHADES = ((0.86, 0.94), (1.0, 0.82), (0.97, 0.90))
_FAR_WALL = 5  # face index of the wall that the first camera looks at


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A room and its boxes; `low_B3`, `high_B3` are corners in metres, `textures_FCSS` shaded RGB in [0, 1].

    `camera_3` is where every clip of the scene starts, looking along `yaw` and `pitch` (radians).
    """

    scene_id: str
    low_B3: Tensor
    high_B3: Tensor
    textures_FCSS: Tensor
    camera_3: Tensor
    yaw: float
    pitch: float
    wall_colour: str
    wall_pattern: str

    def __post_init__(self) -> None:
        count = self.low_B3.shape[0]
        expected = (count * 6, 3, TEXTURE_SIDE, TEXTURE_SIDE)
        if tuple(self.textures_FCSS.shape) != expected:
            raise ValueError(
                f"Scene.textures_FCSS: must be {expected} for {count} boxes, got "
                f"{tuple(self.textures_FCSS.shape)}; give six textures a box"
            )
        if not bool((self.high_B3 > self.low_B3).all()):
            raise ValueError("Scene.high_B3: must exceed low_B3 everywhere, got an empty box; drop that box")

    @property
    def box_count(self) -> int:
        """How many boxes stand in the room."""
        return int(self.low_B3.shape[0]) - 1


def _place_boxes(rng: np.random.Generator, room_low: np.ndarray, room_high: np.ndarray) -> list[np.ndarray]:
    """Boxes [2, 3] on the floor, one per lane across the room so that they hide each other only in part."""
    count = int(rng.integers(3, 5))
    lanes = rng.permutation(count)
    half = min(1.45, room_high[0] - 0.25)
    width = 2 * half / count
    boxes = []
    for lane in lanes:
        size = np.array([rng.uniform(0.55, 0.95) * width, rng.uniform(0.5, 1.5), rng.uniform(0.35, 0.8)])
        x = -half + (lane + 0.5) * width + rng.uniform(-0.1, 0.1) * width
        # The nearest face stays 1.4 m from the first camera (at z = 0), out of reach of every move.
        z = rng.uniform(1.4, room_high[2] - 0.5 - size[2])
        low = np.array([x - size[0] / 2, room_high[1] - size[1], z])
        boxes.append(np.stack([low, low + size]))
    return boxes


def _face_textures(rng: np.random.Generator, boxes: int) -> tuple[np.ndarray, str, str]:
    names = list(COLOURS)
    textures, wall = [], ("", "")
    for box in range(boxes):
        for face in range(6):
            colour, pattern = str(rng.choice(names)), str(rng.choice(PATTERNS))
            cycles = rng.uniform(2.0, 4.0) if box == 0 else rng.uniform(1.0, 2.0)
            marks = int(rng.integers(3, 7)) if box == 0 else int(rng.integers(0, 3))
            texture_SSC = _make_texture(rng, COLOURS[colour], pattern, cycles, marks)
            textures.append(texture_SSC * _SHADES[face // 2][face % 2])
            if box == 0 and face == _FAR_WALL:
                wall = (colour, pattern)
    return np.stack(textures).transpose(0, 3, 1, 2), *wall


def make_scene(scene_id: str) -> Scene:
    """The scene of that name; all randomness comes from the hash of `scene_id`."""
    import torch

    rng = stable_generator("scene", scene_id)
    half_width, half_height = rng.uniform(1.7, 2.3), rng.uniform(1.15, 1.45)
    room_low = np.array([-half_width, -half_height, -1.2])
    room_high = np.array([half_width, half_height, rng.uniform(3.2, 4.4)])
    boxes = np.stack([np.stack([room_low, room_high]), *_place_boxes(rng, room_low, room_high)])
    textures, colour, pattern = _face_textures(rng, len(boxes))
    camera = np.array([rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2), 0.0])
    return Scene(
        scene_id=scene_id,
        low_B3=torch.from_numpy(boxes[:, 0]).float(),
        high_B3=torch.from_numpy(boxes[:, 1]).float(),
        textures_FCSS=torch.from_numpy(np.ascontiguousarray(textures)).float(),
        camera_3=torch.from_numpy(camera).float(),
        yaw=float(rng.uniform(-0.12, 0.12)),
        pitch=float(rng.uniform(-0.04, 0.12)),
        wall_colour=colour,
        wall_pattern=pattern,
    )
