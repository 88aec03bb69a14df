"""What a video from outside is: its moving picture, how that is shown, its frames and their times."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

from storage.errors import FieldError
from storage.media.external_video import Refused

Fit: TypeAlias = Literal["exact", "crop", "resize"]

# Decoders of moving pictures, as the library names them.
# fmt: off
_CODECS = frozenset((
    "h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp9", "libvpx-vp9", "vp8", "libvpx", "mpeg4",
    "mpeg2video", "mpeg1video", "msmpeg4v2", "msmpeg4v3", "msmpeg4", "prores", "dnxhd", "mjpeg", "ffv1",
    "huffyuv", "ffvhuff", "utvideo", "rawvideo", "theora", "wmv1", "wmv2", "wmv3", "vc1", "flv", "h263",
    "cfhd", "qtrle", "cinepak", "png", "gif",
))
# fmt: on
# By how they begin: the reader is named, because the library also reads lists of other files.
_STARTS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"mdat", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (0, b"GIF8", "gif"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x47", "mpegts"),
    (4, b"\x47", "mpegts"),
)
_KNOWN_STARTS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"RIFF", "a RIFF file without a video"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"#EXTM3U", "a playlist"),
)
_PICKLE_PROTOCOLS = range(2, 6)
_HEAD_BYTES = 12
_TS_PACKETS = {0: 188, 4: 192}
# As broad as any film, and as narrow as that on its side; what is beyond is a broken header.
_MOST_PIXEL_SHAPE = 4
_MOST_HIDDEN = 4096
# Times are kept in ticks, and writers round: frames so near to even are even.
_EVEN_SHARE = 0.1
_RATE_SHARE = 0.01


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


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """A video as it is shown: frames, square pixels, frames a second, and how it comes to be that.

    `times` are seconds from the first frame. `orientation` turns a stored frame of `stored` height and width,
    whose pixels are `pixel_shape` times as wide as high. `even` says whether all frames last equally long.
    `plain` is a file that every reader of the run takes for what it is shown as; others are written again.
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
    from storage.media.frames import converted_from, orientation, why_unknown

    container_name = _container_of(path)
    with opened(path, limits.max_pixels) as (container, stream):
        _require_pixels(stream.height, stream.width, limits)
        if stream.metadata.get("alpha_mode") == "1":  # a second picture, which the decoder passes over
            raise Refused("transparent", "is transparent in parts: put it on a ground")
        times, hidden = _times(container, stream, limits)
        # Others count chunks, or guess.
        announced = stream.frames if container_name == "mp4" else 0
        fps, even = _rate(times, stream)
        if times:
            _require_length(times, fps, limits)
    if announced > len(times) + hidden:
        _require_whole(path, announced, limits)
    with opened(path, limits.max_pixels) as (container, stream):
        frame = next(iter(container.decode(stream)), None)
        if frame is None or not times:
            raise Refused("unreadable", "holds no frame that decodes: get it again")
        if len(times) == 1:
            raise Refused("not-a-video", "has one frame: leave it out, or give it as a first frame")
        if not (fps > 0 and math.isfinite(fps)):
            raise Refused("unreadable", f"has {len(times)} frames at {fps:g} a second: write it again as mp4")
        how, shape = orientation(frame), _pixel_shape(stream)
        if how is None:
            raise Refused("orientation", "is turned by an angle that is no quarter: write it again upright")
        why = why_unknown(frame)
        if why is not None:
            raise Refused(
                "colours", f"has colours that cannot be converted ({why}): write it again as BT.709"
            )
        height, width = _shown_size(frame.height, frame.width, how, shape)
        _require_pixels(height, width, limits)
        codec = stream.codec_context.name
        colours = converted_from(frame)
        plain = (
            container_name == "mp4"
            and [one.index for one in container.streams.video] == [stream.index]
            and how == (1, 0, 0, 1)
            and shape == 1
            and hidden == 0
            and announced in (0, len(times))
            and colours is None
        )
        return VideoFacts(
            frames=len(times),
            height=height,
            width=width,
            fps=fps,
            container=container_name,
            codec=codec,
            stream=stream.index,
            stored=(frame.height, frame.width),
            orientation=how,
            pixel_shape=shape,
            colours=colours,
            times=tuple(times),
            even=even,
            plain=plain,
        )


def _require_whole(path: Path, announced: int, limits: VideoLimits) -> None:
    """Refuse a file that lacks some of its frames; an edit list may leave them out on purpose."""
    with opened(path, limits.max_pixels, ignore_editlist="1") as (_, stream):
        found = len(stream.index_entries)
    if found < announced:
        raise Refused("unreadable", f"is truncated: {found} of {announced} frames are there; get it again")


@contextmanager
def opened(path: Path, max_pixels: int, **options: str) -> Iterator[tuple[Any, Any]]:
    """The container and its moving picture, to be read once; whatever is wrong is raised as Refused."""
    import av
    from av.error import FFmpegError

    options = {"protocol_whitelist": "file", **options}
    try:
        with av.open(str(path), format=_container_of(path), options=options) as container:
            stream = _moving_picture(container)
            context = stream.codec_context
            if context is None or context.name not in _CODECS:
                name = "an unknown codec" if context is None else context.name
                raise Refused("codec", f"is coded as {name}: convert it, to h264 for one")
            # What a decoder finds wrong is an error, where it would paint over it; threads that share a frame
            # keep what they find to themselves. `max_pixels` is its own bound, of whole blocks: a frame
            # far larger than announced is refused before it is made.
            context.thread_type = "FRAME"
            context.options = {"max_pixels": str(2 * max_pixels + 2**16), "err_detect": "explode"}
            yield container, stream
    except Refused:
        raise
    except (FFmpegError, OSError, ValueError, OverflowError) as error:
        why = str(getattr(error, "strerror", None) or error or type(error).__name__)
        raise Refused("unreadable", f"is truncated or damaged ({why}): get it again") from error


def _container_of(path: Path) -> str:
    """The reader of a file, by its first bytes. Opening a pipe waits for ever, so that is refused before."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refused("not-a-file", "is not a regular file: give a video file")
        if not status.st_size:
            raise Refused("empty", "has 0 bytes: get the file again")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            for offset, start, name in _STARTS:
                if head[offset : offset + len(start)] != start:
                    continue
                if name == "mpegts":
                    # One byte is no evidence: the next packet begins with it too.
                    file.seek(offset + _TS_PACKETS[offset])
                    if file.read(1) != start:
                        continue
                return name
    except FileNotFoundError as error:
        raise Refused("missing", "does not exist: correct the path") from error
    except OSError as error:
        raise Refused("unreadable", f"cannot be read ({error.strerror}): check its permissions") from error
    raise Refused("not-a-video", f"is {_guess(head)}, not a video: convert it to mp4, or leave it out")


def _guess(head: bytes) -> str:
    for start, what in _KNOWN_STARTS:
        if head.startswith(start):
            return what
    return "a pickle" if head[:1] == b"\x80" and head[1:2] and head[1] in _PICKLE_PROTOCOLS else "something"


def _moving_picture(container: Any) -> Any:
    """The video stream that players show; covers, thumbnails and tracks of one picture beside it are none."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [one for one in container.streams.video if not one.disposition & still]
    if not streams:
        raise Refused("not-a-video", "has no video in it: leave it out")
    return max(streams, key=lambda one: (one.frames != 1, bool(one.disposition & Disposition.default)))


def _times(container: Any, stream: Any, limits: VideoLimits) -> tuple[list[float], int]:
    """Seconds of the presentable frames from the first on, and how many others there are.

    Cuts by copying keep what decoding needs, and an edit list that says what is shown.
    """
    found: list[int | None] = []
    hidden = 0
    for packet in container.demux(stream):
        # A packet of AVI may say that the former frame stays.
        if packet.size <= 1:
            continue
        if packet.is_discard:
            hidden += 1
            if hidden > _MOST_HIDDEN:
                raise Refused("unreadable", f"hides more than {_MOST_HIDDEN} frames: write it again as mp4")
            continue
        if packet.is_corrupt:
            raise Refused("unreadable", f"is damaged (packet {len(found) + 1}): get it again")
        found.append(packet.pts if packet.pts is not None else packet.dts)
        if len(found) > limits.max_frames:
            many = str(stream.frames) if stream.frames > limits.max_frames else f"over {limits.max_frames}"
            raise Refused("too-long", _too_long(f"{many} frames", limits))
    ticks = sorted(one for one in found if one is not None)
    if len(ticks) < len(found) or len(set(ticks)) < len(ticks):
        # No times, or times of nothing: the container's rate is all that is known.
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        return [number / rate if rate else 0.0 for number in range(len(found))], hidden
    return [float((tick - ticks[0]) * stream.time_base) for tick in ticks], hidden


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


def _require_length(times: list[float], fps: float, limits: VideoLimits) -> None:
    seconds = times[-1] + (1 / fps if fps > 0 else 0)
    if seconds > limits.max_seconds:
        raise Refused("too-long", _too_long(f"{seconds:.6g} seconds", limits))


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


def _shown_size(height: int, width: int, how: tuple[int, int, int, int], shape: Fraction) -> tuple[int, int]:
    """Height and width of square pixels that show a stored picture: its lines stay as many as they are."""
    wide = max(1, round(width * shape))
    return (height, wide) if how[0] else (wide, height)


def _require_pixels(height: int, width: int, limits: VideoLimits) -> None:
    if not (height > 0 and width > 0):
        raise Refused("unreadable", f"has frames of {width}x{height} pixels: get it again")
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
