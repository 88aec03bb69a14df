"""Camera moves with their prompt text, and the path of w2c matrices that each of them makes.

OpenCV convention: x right, y down, z forward, X_camera = R X_world + t. Pixel centres lie at integer
coordinates, so the principal point of a size x size image is (size - 1) / 2.
Legend: T frames, 3x4 [R | t].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.world.scenes import Scene, stable_generator

if TYPE_CHECKING:
    from torch import Tensor

_FIELD_OF_VIEW: Final = 60.0
FRAMES: Final = 9


@dataclass(frozen=True, kw_only=True)
class Move:
    """A camera primitive: its name, the phrase of the prompt, and the range of its amplitude.

    `kind` is push, slide (metres), pan, tilt or orbit (degrees); `sign` is its direction.
    """

    name: str
    phrase: str
    kind: str
    sign: int
    low: float
    high: float


MOVES: Final[tuple[Move, ...]] = (
    Move(name="push_forward", phrase="push forward into the scene", kind="push", sign=1, low=0.4, high=0.7),
    Move(name="pull_back", phrase="pull back away from the scene", kind="push", sign=-1, low=0.35, high=0.6),
    Move(name="slide_left", phrase="slide sideways to the left", kind="slide", sign=-1, low=0.22, high=0.4),
    Move(name="slide_right", phrase="slide sideways to the right", kind="slide", sign=1, low=0.22, high=0.4),
    Move(name="pan_left", phrase="pan left across the room", kind="pan", sign=-1, low=5.0, high=8.5),
    Move(name="pan_right", phrase="pan right across the room", kind="pan", sign=1, low=5.0, high=8.5),
    Move(name="tilt_up", phrase="tilt upward", kind="tilt", sign=1, low=5.0, high=8.5),
    Move(name="tilt_down", phrase="tilt downward", kind="tilt", sign=-1, low=5.0, high=8.5),
    Move(name="orbit_left", phrase="orbit left around the scene", kind="orbit", sign=-1, low=10.0, high=16.0),
    Move(
        name="orbit_right", phrase="orbit right around the scene", kind="orbit", sign=1, low=10.0, high=16.0
    ),
)
_BY_NAME: Final = {move.name: move for move in MOVES}
_ORBIT_RADIUS: Final = 2.3


def move_named(name: str) -> Move:
    """The move of that name; ValueError lists the names."""
    if name not in _BY_NAME:
        raise ValueError(f"move: must be one of {', '.join(_BY_NAME)}, got {name!r}")
    return _BY_NAME[name]


def INTRINSICS(size: int) -> Tensor:
    """Pinhole intrinsics, float32 [3, 3] in pixels of a size x size image, 60 degrees of view."""
    import torch

    focal = size / (2 * math.tan(math.radians(_FIELD_OF_VIEW) / 2))
    centre = (size - 1) / 2
    return torch.tensor([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]])


def _rotation(yaw_T: Tensor, pitch_T: Tensor) -> Tensor:
    """World-to-camera rotations [T, 3, 3]; positive yaw looks right, positive pitch looks down."""
    import torch

    sin_y, cos_y, sin_p, cos_p = yaw_T.sin(), yaw_T.cos(), pitch_T.sin(), pitch_T.cos()
    zero = torch.zeros_like(yaw_T)
    right_T3 = torch.stack([cos_y, zero, -sin_y], -1)
    down_T3 = torch.stack([-sin_p * sin_y, cos_p, -sin_p * cos_y], -1)
    forward_T3 = torch.stack([cos_p * sin_y, sin_p, cos_p * cos_y], -1)
    return torch.stack([right_T3, down_T3, forward_T3], 1)


def camera_path(scene: Scene, move_name: str, seed: int, frames: int = FRAMES) -> Tensor:
    """World-to-camera matrices w2c, float32 [T, 3, 4]: the move at constant speed.

    `seed` draws the amplitude. Every path of a scene starts at the same camera. Raises ValueError for
    an unknown move.
    """
    import torch

    move = move_named(move_name)
    amplitude = stable_generator("amplitude", scene.scene_id, move_name, seed).uniform(move.low, move.high)
    progress_T = torch.linspace(0, 1, frames, dtype=torch.float64) * (move.sign * amplitude)
    yaw_T = torch.full((frames,), scene.yaw, dtype=torch.float64)
    pitch_T = torch.full((frames,), scene.pitch, dtype=torch.float64)
    centre_T3 = scene.camera_3.double().repeat(frames, 1)
    start_33 = _rotation(yaw_T[:1], pitch_T[:1])[0]
    if move.kind == "push":
        centre_T3 = centre_T3 + progress_T[:, None] * start_33[2]
    elif move.kind == "slide":
        centre_T3 = centre_T3 + progress_T[:, None] * start_33[0]
    elif move.kind == "pan":
        yaw_T = yaw_T + progress_T.deg2rad()
    elif move.kind == "tilt":
        pitch_T = pitch_T - progress_T.deg2rad()
    else:
        yaw_T = yaw_T - progress_T.deg2rad()
        pivot_3 = centre_T3[0] + _ORBIT_RADIUS * start_33[2]
        centre_T3 = pivot_3 - _ORBIT_RADIUS * _rotation(yaw_T, pitch_T)[:, 2]
    rotation_T33 = _rotation(yaw_T, pitch_T)
    translation_T31 = -(rotation_T33 @ centre_T3[:, :, None])
    return torch.cat([rotation_T33, translation_T31], -1).float()
