"""What a video from outside is: its moving picture, how that is shown, its frames and their times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

from storage.errors import FieldError
from storage.media.containers import container_of, opened
from storage.media.external_files import Refused
from storage.media.packets import read_through, require_end, times_of

Fit: TypeAlias = Literal["exact", "crop", "resize"]

# As broad as any film, and as narrow as that on its side; what is beyond is a broken header.
_MOST_PIXEL_SHAPE = 4
# Below it there is nothing to match, and a latent has no pixel.
_LEAST_SIDE = 16
# Times are kept in ticks, and writers round: frames so near to even are even.
_EVEN_SHARE = 0.1
_RATE_SHARE = 0.01
# Pictures that lean on others: predicted from one, from two.
_LEANING = (2, 3)


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """The largest video that is taken in: pixels of a frame, frames, seconds. Raises UserError."""

    # A large clip of a video model is 161 frames of 720x1280. A video is scored from memory, uncompressed.
    max_pixels: int = field(
        default=1088 * 1920,
        metadata={"help": "Largest frame, height times width.", "metavar": "N", "group": "Which videos"},
    )
    max_frames: int = field(
        default=512, metadata={"help": "Longest video, in frames.", "metavar": "N", "group": "Which videos"}
    )
    max_seconds: float = field(
        default=60.0,
        metadata={"help": "Longest video, in seconds.", "metavar": "X", "group": "Which videos"},
    )

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_frames", "max_seconds"):
            value = getattr(self, name)
            if not value > 0:
                raise FieldError(name, "above 0", value)
        # Decoders count them in 32 bits.
        if self.max_pixels >= 2**31:
            raise FieldError("max_pixels", "below 2**31", self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """A video as it is shown: frames, square pixels, frames a second, and how it comes to be that.

    `times` are seconds from the first frame, at tick `start` where that is known; `leads` are packets that
    are not shown. `orientation` turns a stored frame of `stored` height and width, whose pixels are
    `pixel_shape` times as wide as high. `even` says whether all frames last equally long. `plain` is a file
    that every reader of the run takes for what it is shown as; others are written again.
    """

    frames: int
    height: int
    width: int
    fps: float
    container: str = "mp4"
    codec: str = "h264"
    stream: int = 0
    stored: tuple[int, int] = (0, 0)
    orientation: tuple[int, int, int, int] = (1, 0, 0, 1)
    pixel_shape: Fraction = Fraction(1)
    colours: str | None = None
    times: tuple[float, ...] = ()
    start: int | None = None
    leads: int = 0
    even: bool = True
    plain: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return self.frames, self.height, self.width

    def as_dict(self) -> dict[str, Any]:
        """What a row keeps of it: plain values, and only those that are out of the ordinary."""
        a, b, c, d = self.orientation
        mirrored = a * d - b * c < 0
        # Turned with the clock, then mirrored left to right.
        a, b = (-a, b) if mirrored else (a, b)
        told = {
            "size": [self.width, self.height],
            "frames": self.frames,
            "fps": round(self.fps, 4),
            "container": self.container,
            "codec": self.codec,
            "stream": self.stream or None,
            "stored_size": None if self.stored == (self.height, self.width) else [*self.stored[::-1]],
            "turned": {1: 0, -1: 180}[a] if a else {1: 90, -1: 270}[b],
            "mirrored": mirrored,
            "pixel_shape": None if self.pixel_shape == 1 else str(self.pixel_shape),
            "colours": self.colours,
            "uneven": not self.even,
        }
        return {name: value for name, value in told.items() if value not in (None, False, 0)}


def inspect_video(path: Path, limits: VideoLimits) -> VideoFacts:
    """What a video is, from its packets and its first frame. Raises Refused for what is not taken in."""
    with opened(path, limits.max_pixels) as (container, stream):
        _require_pixels(stream.height, stream.width, limits)
        if stream.metadata.get("alpha_mode") == "1":  # a second picture, which the decoder passes over
            raise Refused("transparent", "is transparent in parts: put it on a ground")
        packets = read_through(container, stream, limits.max_frames)
        times, hidden, frame = times_of(packets, stream), packets.hidden, packets.first
        name = container_of(path)
        # Others count chunks, or guess.
        announced = stream.frames if name == "mp4" else 0
        if announced > len(times) + hidden:
            _require_whole(path, announced, limits)
        if frame is None or not times:
            raise Refused("unreadable", "holds no frame that decodes: get it again")
        if not hidden and not frame.key_frame and int(frame.pict_type) in _LEANING:
            raise Refused(
                "unreadable", "begins between key frames, so that its start is missing: cut it at one"
            )
        require_end(path, name, container, stream, times, packets)
        if len(times) == 1:
            raise Refused("not-a-video", "has one frame: leave it out, or give it as a first frame")
        fps, even = _rate(times, stream)
        if not (fps > 0 and math.isfinite(fps)):
            raise Refused("unreadable", f"has {len(times)} frames at {fps:g} a second: write it again as mp4")
        if times[-1] + 1 / fps > limits.max_seconds:
            raise Refused("too-long", _too_long(f"{times[-1] + 1 / fps:.6g} seconds", limits))
        alone = name == "mp4" and len(container.streams.video) == 1
        said = VideoFacts(
            frames=len(times),
            height=frame.height,
            width=frame.width,
            fps=fps,
            container=name,
            codec=stream.codec_context.name,
            stream=stream.index,
            times=tuple(times),
            start=packets.start,
            leads=hidden,
            even=even,
            plain=alone and hidden == 0 and announced in (0, len(times)),
        )
        facts = _as_shown(said, frame, _pixel_shape(stream))
        _require_pixels(facts.height, facts.width, limits)
        if min(facts.height, facts.width) < _LEAST_SIDE:
            raise Refused(
                "too-small",
                f"has {facts.width}x{facts.height} pixels, at least {_LEAST_SIDE} a side are needed",
            )
        return facts


def _as_shown(said: VideoFacts, frame: Any, shape: Fraction) -> VideoFacts:
    """The facts with how a decoded frame comes to be what is shown."""
    from storage.media.frames import converted_from, orientation, why_unknown

    how, why, colours = orientation(frame), why_unknown(frame), converted_from(frame)
    if how is None:
        raise Refused(
            "orientation", "is shown by a matrix that is no turn by quarters: write it again upright"
        )
    if why is not None:
        raise Refused("colours", f"has colours that cannot be converted ({why}): write it again as BT.709")
    # Its lines stay as many as they are; their pixels become square.
    wide = max(1, round(frame.width * shape))
    height, width = (frame.height, wide) if how[0] else (wide, frame.height)
    as_it_is = how == (1, 0, 0, 1) and shape == 1 and colours is None
    return replace(
        said,
        height=height,
        width=width,
        stored=(frame.height, frame.width),
        orientation=how,
        pixel_shape=shape,
        colours=colours,
        plain=said.plain and as_it_is,
    )


def _require_whole(path: Path, announced: int, limits: VideoLimits) -> None:
    """Refuse a file that lacks some of its frames; an edit list may leave them out on purpose."""
    with opened(path, limits.max_pixels, ignore_editlist="1") as (_, stream):
        found = len(stream.index_entries)
    if found < announced:
        raise Refused("unreadable", f"is truncated: {found} of {announced} frames are there; get it again")


def _rate(times: list[float], stream: Any) -> tuple[float, bool]:
    """Frames a second, and whether the frames are even."""
    said = float(stream.average_rate or stream.guessed_rate or 0)
    if len(times) < 2 or not times[-1] > 0:
        return said, True
    step = times[-1] / (len(times) - 1)
    even = all(
        abs(time - number * step) <= _EVEN_SHARE * step + float(stream.time_base)
        for number, time in enumerate(times)
    )
    # What a container says is exact where it is right at all.
    return (said if said and abs(said * step - 1) <= _RATE_SHARE else 1 / step), even


def _pixel_shape(stream: Any) -> Fraction:
    """Width of a pixel in heights, 1 where nothing is said."""
    shape = stream.sample_aspect_ratio
    if not shape:
        return Fraction(1)
    if not 1 / _MOST_PIXEL_SHAPE <= shape <= _MOST_PIXEL_SHAPE:
        raise Refused(
            "pixel-shape", f"has pixels of {shape}, width by height: write it again with square ones"
        )
    return Fraction(shape)


def _require_pixels(height: int, width: int, limits: VideoLimits) -> None:
    if not (height > 0 and width > 0):
        raise Refused(
            "unreadable",
            f"has frames of {width}x{height} pixels: get it again, or cut it where a key frame is",
        )
    if height * width > limits.max_pixels:
        raise Refused(
            "too-large",
            f"has {width}x{height} = {height * width} pixels a frame, max_pixels is {limits.max_pixels}: "
            "make it smaller, or raise the limit",
        )


def _too_long(what: str, limits: VideoLimits) -> str:
    return (
        f"has {what}; max_frames is {limits.max_frames}, max_seconds {limits.max_seconds:g}: "
        "cut it, or raise the limit"
    )
