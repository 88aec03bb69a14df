"""The clip that is wanted of a video: which of its frames, upright, of which size and colours.

One place for a video, its first frame and what is kept for browsers. Legend: T frames, H W pixels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.errors import FieldError
from storage.media.containers import opened
from storage.media.external_files import Refused
from storage.media.foreign_video import Fit, VideoFacts, VideoLimits
from storage.media.frames import rgb, shows_through, turned
from storage.media.packets import decoded, is_before

# Rates that differ by less are one: a clip of 49 frames is then off by less than a frame.
_SAME_RATE = 0.02
_SAME_ASPECT = 0.02


@dataclass(frozen=True, kw_only=True)
class Target:
    """The clip that a model is to be trained on: frames, frames a second, pixels. Raises UserError.

    "exact" refuses a video that is not like that; "crop" fills the frame and cuts the rest off, evenly on
    both sides; "resize" changes the aspect. Both take the frames nearest to the moments of the rate, from the
    first on. A video that ends before the last moment, or that has fewer frames a second, is refused.
    """

    frames: int
    height: int
    width: int
    fps: float
    fit: Fit

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise FieldError("fit", f"one of {', '.join(get_args(Fit))}", self.fit, "choose one")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return self.frames, self.height, self.width

    def has_its_rate(self, facts: VideoFacts) -> bool:
        """Whether a video's frames are those of the rate, one by one."""
        return facts.even and abs(facts.fps / self.fps - 1) <= _SAME_RATE

    def require(self, facts: VideoFacts) -> None:
        """Raise Refused for a video that does not fit."""
        has = f"has {facts.frames} frames of {facts.width}x{facts.height}"
        wants = f"the model is asked for {self.frames} of {self.width}x{self.height}"
        same = self.has_its_rate(facts)
        rates = f"at {facts.fps:.4g} a second, the model is asked for {self.fps:.4g}"
        if facts.fps < self.fps * (1 - _SAME_RATE):
            raise Refused(
                "frame-rate", f"has frames {rates}: give `fps` {facts.fps:.4g} if it is no slow motion"
            )
        if self.fit == "exact" and not same:
            how = "sample it by time with `fit` crop or resize"
            if facts.even:
                how = f"give `fps` {facts.fps:.4g} to take it as it is, or {how}"
            uneven = "" if facts.even else "uneven "
            raise Refused("frame-rate", f"has {uneven}frames {rates}: {how}")
        if facts.frames < self.frames if same else facts.times[-1] < (self.frames - 1.5) / self.fps:
            lasts = "" if same else f" at {facts.fps:.4g} a second"
            at = "" if same else f" at {self.fps:.4g} a second"
            raise Refused(
                "too-short", f"{has}{lasts}, {wants}{at}: give a lower num_frames, or a longer video"
            )
        if self.fit == "exact" and facts.shape != self.shape:
            raise Refused(
                "size", f"{has}, {wants}: use `fit` crop or resize, or change `height`, `width` or num_frames"
            )

    def moments(self, facts: VideoFacts) -> list[int]:
        """The numbers of the frames that are taken, in order."""
        if self.has_its_rate(facts):
            return list(range(self.frames))
        return [_nearest(facts.times, number / self.fps) for number in range(self.frames)]

    def picture(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The first frame that a person gave, cut as the video is; samplers scale it themselves.

        Raises Refused where "exact" would change its aspect.
        """
        height, width = image_HW3.shape[:2]
        same_aspect = abs(width * self.height / (height * self.width) - 1) <= _SAME_ASPECT
        if same_aspect or self.fit == "resize":
            return image_HW3
        if self.fit == "crop":
            return self.fitted(image_HW3, height, width)
        raise Refused(
            "first-frame",
            f"first frame has {width}x{height} pixels, another aspect than the model's "
            f"{self.width}x{self.height}: use `fit` crop or resize, or give the video's own first frame",
        )

    def fitted(self, frame_HW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """A picture that is shown at this height and width, cut and scaled at once to the target's size."""
        box = (0.0, 0.0, float(width), float(height))
        if self.fit == "crop":
            scale = min(height / self.height, width / self.width)
            cut_x, cut_y = (width - scale * self.width) / 2, (height - scale * self.height) / 2
            box = (cut_x, cut_y, width - cut_x, height - cut_y)
        return _scaled(frame_HW3, height, width, self.height, self.width, box)


def clip_of(
    path: Path,
    facts: VideoFacts,
    limits: VideoLimits,
    target: Target | None = None,
    *,
    keep: int | None = None,
) -> NDArray[np.uint8]:
    """Decode a whole video and make what is wanted of it: uint8 RGB [T,H,W,3].

    Without a target all frames, or the first `keep` of them, as they are shown. Containers lie, so the limits
    and the facts hold while it decodes. Raises Refused for a video that is damaged or not as it says.
    """
    numbers = range(facts.frames if keep is None else keep) if target is None else target.moments(facts)
    wanted = set(numbers)
    made: dict[int, NDArray[np.uint8]] = {}
    count = 0
    with opened(path, limits.max_pixels) as (container, stream):
        for frame in _shown(container, stream, facts):
            if count >= facts.frames:
                raise _not_as_said(f"more than {facts.frames} frames decode")
            if (frame.height, frame.width) != facts.stored:
                stored = f"{facts.stored[1]}x{facts.stored[0]}"
                raise _not_as_said(f"frame {count + 1} is {frame.width}x{frame.height}, not {stored}")
            if frame.is_corrupt:
                raise Refused("unreadable", f"frame {count + 1} is damaged: get the file again")
            if frame.interlaced_frame:
                raise Refused(
                    "interlaced", f"frame {count + 1} is of two half pictures: write it again as full ones"
                )
            if shows_through(frame):
                raise Refused("transparent", f"frame {count + 1} is transparent in parts: put it on a ground")
            if count in wanted:
                made[count] = _as_wanted(turned(rgb(frame), facts.orientation), facts, target)
            count += 1
    if count < facts.frames:
        raise Refused("unreadable", f"is truncated: {count} of {facts.frames} frames decode; get it again")
    return np.stack([made[number] for number in numbers])


def _shown(container: Any, stream: Any, facts: VideoFacts) -> Iterator[Any]:
    """The frames that are presentable, decoded."""
    for packet in container.demux(stream):
        leads = bool(facts.leads) and (packet.is_discard or is_before(packet, facts.start))
        yield from (one for one in decoded(packet, leads) if not is_before(one, facts.start))


def likeness(a_HW3: NDArray[np.uint8], b_HW3: NDArray[np.uint8]) -> float:
    """PSNR in dB of two pictures of what should be one scene, small, so that resampling hardly counts."""
    size = (_LIKENESS_SIDE, _LIKENESS_SIDE)
    a, b = (
        np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX), np.float64)
        for one in (a_HW3, b_HW3)
    )
    return float(10 * np.log10(255**2 / max(float(np.mean((a - b) ** 2)), _LEAST_ERROR)))


_LIKENESS_SIDE = 32
# Equal pictures: 99 dB in the place of infinity.
_LEAST_ERROR = 255**2 / 10**9.9


def _as_wanted(frame_HW3: NDArray[np.uint8], facts: VideoFacts, target: Target | None) -> NDArray[np.uint8]:
    if target is not None:
        return target.fitted(frame_HW3, facts.height, facts.width)
    whole = (0.0, 0.0, float(facts.width), float(facts.height))
    return _scaled(frame_HW3, facts.height, facts.width, facts.height, facts.width, whole)


def _scaled(
    frame_HW3: NDArray[np.uint8],
    shown_height: int,
    shown_width: int,
    height: int,
    width: int,
    box: tuple[float, float, float, float],
) -> NDArray[np.uint8]:
    """Resample `box`, given in the pixels in which the picture is shown, to a size."""
    stored_height, stored_width = frame_HW3.shape[:2]
    x, y = stored_width / shown_width, stored_height / shown_height
    stored_box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    if (stored_height, stored_width) == (height, width) and stored_box == (0, 0, width, height):
        return np.ascontiguousarray(frame_HW3)
    picture = Image.fromarray(np.ascontiguousarray(frame_HW3))
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box=stored_box))


def _nearest(times: Sequence[float], moment: float) -> int:
    after = min(bisect_left(times, moment), len(times) - 1)
    before = max(0, after - 1)
    return before if moment - times[before] <= times[after] - moment else after


def _not_as_said(what: str) -> Refused:
    return Refused("not-as-announced", f"is not as its container says ({what}): write it again as mp4")
