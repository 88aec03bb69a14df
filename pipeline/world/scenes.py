"""Static scenes: a textured room with three or four axis-aligned boxes standing in it.

World coordinates are metres with y pointing down (as the cameras of OpenCV): the floor is the largest y.
Legend: B boxes (index 0 is the room, seen from inside), F faces (six a box), S texture side, C colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.world.seeding import stable_generator
from pipeline.world.textures import COLOURS, PATTERNS, TEXTURE_SIDE, make_texture

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
            texture_SSC = make_texture(rng, COLOURS[colour], pattern, cycles, marks)
            textures.append(texture_SSC * _SHADES[face // 2][face % 2])
            if box == 0 and face == _FAR_WALL:
                wall = (colour, pattern)
    return np.stack(textures).transpose(0, 3, 1, 2), *wall


def make_scene(scene_id: str) -> Scene:
    """The scene of that name; all randomness comes from the hash of `scene_id`."""
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
