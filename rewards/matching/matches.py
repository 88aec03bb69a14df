"""Matches between two frames from dense optical flow (DIS, Kroeger et al. 2016, through OpenCV): no weights.

Shape legend: H height, W width, N matches. Pixels are x, y with pixel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewards.errors import RewardError


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Places of the same points in two frames; grain is the size in pixels of a pixel that was searched.

    A frame that was enlarged four times before the search has a grain of .25: what places are precise to
    follows it. Raises ValueError when the shapes differ.
    """

    first_N2: Tensor
    second_N2: Tensor
    grain: float

    def __post_init__(self) -> None:
        if self.first_N2.shape != self.second_N2.shape or self.first_N2.shape[1:] != (2,):
            raise ValueError(
                f"first_N2 and second_N2 must both have shape (matches, 2), got "
                f"{tuple(self.first_N2.shape)} and {tuple(self.second_N2.shape)}"
            )

    def __len__(self) -> int:
        return int(self.first_N2.shape[0])


class Matcher(Protocol):
    """Describes frames, each once, and matches descriptions. version names all that matches depend on."""

    name: str
    version: str

    def describe(self, frame_HW3: Tensor) -> Any:
        """Whatever `match` needs of a float frame in [0,1]."""
        ...

    def match(self, first: Any, second: Any) -> Matches:
        """Matches between two described frames, in the order of the first."""
        ...


_SHORT_SIDE = 256  # shorter frames are enlarged: patches of flow and features are 8 pixels and more wide
_CELLS = 16  # matches along the short side
_AGREE = 1.0  # pixels of the frame: forth and back must lead home

Picture = NDArray[np.uint8]


def dense_matches(first_HW3: Tensor, second_HW3: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of a regular grid of the first frame and where they are in the second, both N,2 float32.

    Frames are float in [0,1]. A match is kept when the flow back leads home within a pixel and it stays in
    the frame. The same bits on every number of threads. Raises RewardError when OpenCV is not installed.
    """
    cv2 = require_opencv()
    height, width = first_HW3.shape[:2]
    factor = enlargement(height, width)
    step = max(1, round(min(height, width) / _CELLS)) * factor
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the flow walks in stripes, one a thread: their borders would show in the result
    try:
        first, second = (grey_picture(frame, factor) for frame in (first_HW3, second_HW3))
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        forth, back = search.calc(first, second, None), search.calc(second, first, None)
        rows, columns = np.mgrid[step // 2 : height * factor : step, step // 2 : width * factor : step]
        here = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)
        there = here + forth[rows.ravel(), columns.ravel()]
        home = there + cv2.remap(back, there[:, :1], there[:, 1:], cv2.INTER_LINEAR)[:, 0]
    finally:
        cv2.setNumThreads(threads)
    last = np.array([width * factor - 1, height * factor - 1], dtype=np.float32)
    inside = ((there >= 0) & (there <= last)).all(axis=1)
    kept = inside & (np.linalg.norm(home - here, axis=1) < _AGREE * factor)
    return in_pixels(here[kept], factor), in_pixels(there[kept], factor)


def require_opencv() -> Any:
    """The module cv2. Raises RewardError when it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise RewardError(
            "matches between frames need OpenCV; install it with: pip install opencv-python-headless"
        ) from error
    return cv2


def enlargement(height: int, width: int) -> int:
    """The whole factor that brings the short side of a frame to 256 pixels; 1 for larger frames."""
    return max(1, -(-_SHORT_SIDE // min(height, width)))


def grey_picture(frame_HW3: Tensor, factor: int = 1) -> Picture:
    """A float frame in [0,1] as 8-bit luminance, enlarged (bicubic). Raises RewardError without OpenCV."""
    cv2 = require_opencv()
    picture = (frame_HW3.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    height, width = picture.shape[:2]
    if factor > 1:
        size = (width * factor, height * factor)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    grey: Picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey


def in_pixels(points_N2: NDArray[np.float32], factor: int) -> Tensor:
    """From the enlarged frame, whose pixel centres lie at (i + .5) / factor - .5, to the frame."""
    return torch.from_numpy((points_N2 + 0.5) / factor - 0.5).float()
