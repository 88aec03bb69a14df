"""Clips of one shot each: of the world, from video files, and from pictures that a camera pans over.

Legend: T frames, H height, W width, uint8 RGB.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import cv2
import numpy as np

from jobs.bench.spoiling.faults import Clip
from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.corruptions import STRENGTHS, corrupt
from pipeline.world.scenes import make_scene
from storage.errors import UserError
from storage.media.pictures import read_image
from storage.media.video import encode, read_video

WORLD, FAULTY = "world", "world with faults"
_FRAMES: Final = 49
_SHORT_SIDE: Final = 240
_PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
# Of the picture, over the clip: how far it moves and how much it grows.
_MOVES: Final = ((0.05, 0.0), (0.3, 0.0), (1.0, 0.0), (0.3, -0.3))


def world_clips(split: str, count: int) -> dict[str, list[Clip]]:
    """True clips of the first scenes of a split, and the same with every fault at its strongest."""
    clips: dict[str, list[Clip]] = {WORLD: [], FAULTY: []}
    for number, prompt in enumerate(world_prompts(split, count)):
        clip = render_prompt(prompt)
        clips[WORLD].append(_bytes(clip.frames_THW3))
        name = list(STRENGTHS)[number % len(STRENGTHS)]
        faulty = corrupt(name, make_scene(prompt.scene_id), clip, STRENGTHS[name][-1], number)
        clips[FAULTY].append(_bytes(faulty))
    return clips


def _bytes(frames_THW3: Any) -> Clip:
    made: Clip = (frames_THW3.clamp(0, 1) * 255).round().byte().numpy()
    return made


def folder_clips(folder: Path) -> dict[str, list[Clip]]:
    """Windows of 49 frames of every mp4 file, and of pictures panned and zoomed over, by file or `pictures`.

    A file is one shot; a shorter one is a clip by itself. Raises UserError for a folder without any.
    """
    found: dict[str, list[Clip]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".mp4":
            found[path.stem] = list(_windows(_reduced(read_video(path))))
        elif path.suffix in _PICTURES:
            found.setdefault("pictures", []).extend(_moved_over(read_image(path), *move) for move in _MOVES)
    if not found:
        raise UserError(f"{folder} holds neither .mp4 files nor pictures: give a folder of clips of one shot")
    return found


def _windows(frames: Clip) -> Iterator[Clip]:
    for start in range(0, max(1, len(frames) - _FRAMES + 1), _FRAMES):
        yield frames[start : start + _FRAMES]


def _reduced(frames: Clip) -> Clip:
    height, width = frames.shape[1:3]
    factor = max(1.0, min(height, width) / _SHORT_SIDE)
    size = (round(width / factor / 2) * 2, round(height / factor / 2) * 2)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _moved_over(picture: Any, way: float, growth: float) -> Clip:
    """A clip of 240x360 that moves over a picture, slantwise, and grows."""
    height, width = _SHORT_SIDE, _SHORT_SIDE * 3 // 2
    fills = 1.35 * max(height / picture.shape[0], width / picture.shape[1])
    frames = []
    for time in np.linspace(-0.5, 0.5, _FRAMES):
        scale = fills * (1 + growth) ** time
        step = way * time * width / scale / math.sqrt(2)
        x, y = picture.shape[1] / 2 + step, picture.shape[0] / 2 + step
        matrix = np.array([[scale, 0, width / 2 - scale * x], [0, scale, height / 2 - scale * y]])
        frames.append(
            cv2.warpAffine(
                picture, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101
            )
        )
    return np.stack(frames)


def encoded(clip: Clip) -> Clip:
    """The clip as a file of everyday quality shows it: H.264 with halved chroma at crf 23."""
    even = np.ascontiguousarray(clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2])
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        encode(cast(BinaryIO, file), even, Fraction(24), "yuv420p", {"crf": "23", "preset": "veryfast"})
        file.flush()
        return read_video(Path(file.name))
