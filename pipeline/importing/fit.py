"""Bringing a video to the size that a model is asked for.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.errors import UserError
from storage.media.external_video import Refused, VideoFacts

Fit: TypeAlias = Literal["exact", "crop", "resize"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The size that latents are of, and what is done with a video of another one. Raises UserError.

    "exact" refuses it; "crop" fills the frame and cuts the rest off, evenly on both sides; "resize" changes
    the aspect. Of more frames the first are taken; fewer are refused in any case.
    """

    frames: int
    height: int
    width: int
    fit: Fit

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise UserError(f"--fit must be one of {', '.join(get_args(Fit))}, got {self.fit!r}: choose one")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return self.frames, self.height, self.width

    def require(self, facts: VideoFacts) -> None:
        """Raise Refused for a video that does not fit."""
        has = f"has {facts.frames} frames of {facts.width}x{facts.height}"
        wants = f"the model is asked for {self.frames} of {self.width}x{self.height}"
        if facts.frames < self.frames:
            raise Refused("too-short", f"{has}, {wants}: give a lower --num-frames, or a longer video")
        if self.fit == "exact" and facts.shape != self.shape:
            raise Refused(
                "size", f"{has}, {wants}: use --fit crop or resize, or --height, --width, --num-frames"
            )

    def apply(self, frames_THW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frames at the target's size."""
        kept = frames_THW3[: self.frames]
        if kept.shape[1:3] == (self.height, self.width):
            return kept
        return np.stack([self._frame(frame_HW3) for frame_HW3 in kept])

    def _frame(self, frame_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frame_HW3.shape[:2]
        box = (0.0, 0.0, float(width), float(height))
        if self.fit == "crop":
            scale = min(height / self.height, width / self.width)
            cut_x, cut_y = (width - scale * self.width) / 2, (height - scale * self.height) / 2
            box = (cut_x, cut_y, width - cut_x, height - cut_y)
        picture = Image.fromarray(frame_HW3)
        return np.asarray(picture.resize((self.width, self.height), Image.Resampling.LANCZOS, box=box))
