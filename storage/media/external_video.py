"""Files from outside a run: which are allowed, what they hold, and how they come to lie inside it."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.atomic import TEMP_SUFFIX, atomic_writer, sync_directory, write_error
from storage.errors import FieldError, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Refused(UserError):
    """One item is not taken in; the others are. `rule` is what it broke, as the rejects table names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        """Survive the way from a worker, which an exception with two arguments does not by itself."""
        return (Refused, (self.rule, str(self)))


_CODECS = ("h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp9", "libvpx-vp9", "mpeg4", "prores", "mjpeg")
_KNOWN_STARTS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"RIFF", "an AVI or another RIFF file"),
    (b"GIF8", "a GIF"),
    (b"\x89PNG", "a PNG image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"#EXTM3U", "a playlist"),
)
_PICKLE_PROTOCOLS = range(2, 6)
_FTYP_BYTES = 12


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
    """What the container of a video says of it: frames, pixels, frames a second."""

    frames: int
    height: int
    width: int
    fps: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return self.frames, self.height, self.width


def inspect_video(path: Path, limits: VideoLimits) -> VideoFacts:
    """What the container says, without decoding. Raises Refused for what is no mp4 within the limits."""
    _require_mp4(path)
    with _opened(path) as (container, stream):
        height, width = stream.height, stream.width
        _require_pixels(height, width, limits)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = _seconds(container, stream)
        frames = stream.frames or _counted(container, limits.max_frames)
    if not (fps > 0 and math.isfinite(fps) and frames):
        raise Refused("unreadable", f"has {frames} frames at {fps:g} a second: write it again as mp4")
    if frames > limits.max_frames:
        raise Refused("too-long", _too_long(f"{frames} frames", limits))
    if max(seconds, frames / fps) > limits.max_seconds:
        raise Refused("too-long", _too_long(f"{max(seconds, frames / fps):.6g} seconds", limits))
    return VideoFacts(frames=frames, height=height, width=width, fps=fps)


def decode_video(
    path: Path, facts: VideoFacts, limits: VideoLimits, keep: int = 0
) -> NDArray[np.uint8] | None:
    """Decode a whole video; the first `keep` frames as uint8 RGB [T,H,W,3], None for no frames to keep.

    Containers lie, so the limits and the facts hold while it decodes. Raises Refused for a video that is
    damaged or is not as its container says.
    """
    kept: list[NDArray[np.uint8]] = []
    count = 0
    with _opened(path, limits.max_pixels) as (container, stream):
        for frame in container.decode(stream):
            count += 1
            if count > facts.frames:
                raise _not_as_said(f"more than {facts.frames} frames decode")
            if (frame.height, frame.width) != (facts.height, facts.width):
                raise _not_as_said(
                    f"frame {count} is {frame.width}x{frame.height}, not {facts.width}x{facts.height}"
                )
            if frame.time is not None and frame.time > limits.max_seconds:
                raise Refused("too-long", _too_long(f"a frame at second {frame.time:.6g}", limits))
            if frame.is_corrupt:
                raise Refused("unreadable", f"frame {count} is damaged: get the file again")
            if count <= keep:
                kept.append(frame.to_ndarray(format="rgb24"))
    if count < facts.frames:
        raise Refused("unreadable", f"is truncated: {count} of {facts.frames} frames decode; get it again")
    import numpy as np  # the command line reads the limits and needs none of it

    return np.stack(kept) if kept else None


def _require_mp4(path: Path) -> None:
    """Refuse what is no regular file (opening a pipe waits for ever) or does not start as an mp4 does."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refused("not-a-file", "is not a regular file: give a video file")
        if not status.st_size:
            raise Refused("empty", "has 0 bytes: get the file again")
        with path.open("rb") as file:
            head = file.read(_FTYP_BYTES)
    except FileNotFoundError as error:
        raise Refused("missing", "does not exist: correct the path") from error
    except OSError as error:
        raise Refused("unreadable", f"cannot be read ({error.strerror}): check its permissions") from error
    if head[4:8] != b"ftyp":
        raise Refused("not-a-video", f"is {_guess(head)}, not an mp4 video: convert it, or leave it out")


def _guess(head: bytes) -> str:
    for start, what in _KNOWN_STARTS:
        if head.startswith(start):
            return what
    return "a pickle" if head[:1] == b"\x80" and head[1:2] and head[1] in _PICKLE_PROTOCOLS else "something"


@contextmanager
def _opened(path: Path, max_pixels: int | None = None) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; whatever is wrong with them is raised as Refused."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), format="mp4", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise Refused("not-a-video", "has no video in it: leave it out")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None or context.name not in _CODECS:
                name = "an unknown codec" if context is None else context.name
                raise Refused("codec", f"is coded as {name}: convert it, to h264 for one")
            if max_pixels is not None:
                # The decoder's own bound: a frame that is larger than announced is refused before it is made.
                context.options = {"max_pixels": str(max_pixels)}
            yield container, stream
    except Refused:
        raise
    except (FFmpegError, OSError, ValueError, OverflowError) as error:
        raise Refused("unreadable", f"is truncated or damaged ({_line(error)}): get it again") from error


def _seconds(container: Any, stream: Any) -> float:
    import av

    of_stream = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    of_container = container.duration / av.time_base if container.duration else 0.0
    return max(of_stream, of_container)


def _counted(container: Any, limit: int) -> int:
    """The frames of a container whose header does not count them (a fragmented mp4), at most one too many."""
    count = 0
    for packet in container.demux(video=0):
        count += bool(packet.size)
        if count > limit:
            break
    return count


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


def _not_as_said(what: str) -> Refused:
    return Refused("not-as-announced", f"is not as its container says ({what}): write it again as mp4")


def _line(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


_CHUNK = 4 * 2**20


def confined(root: Path, name: str, allow_outside: bool) -> Path:
    """The file that `name` means under the folder `root`, links followed.

    Raises Refused for one that lies outside of `root`, by an absolute path, `..` or a link, unless
    `allow_outside`, and for a name that no file can have.
    """
    if not name or "\0" in name:
        raise Refused("bad-path", f"path {show(name)!r} is empty or holds a NUL byte: correct it")
    try:
        path = Path(os.path.realpath(root / name))
        inside = path.is_relative_to(os.path.realpath(root))
    except (OSError, ValueError) as error:
        raise Refused("bad-path", f"path {show(name)!r} cannot be followed ({error}): correct it") from error
    if not inside and not allow_outside:
        raise Refused(
            "outside",
            f"path {show(name)!r} leads out of {show(str(root))}: move the file there, or give "
            "allow_outside if you trust whoever wrote it",
        )
    return path


def show(name: str) -> str:
    """A file name as text that any table takes: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hex. Raises Refused when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused("unreadable", f"cannot be read ({error.strerror}): check its permissions") from error


def copy_file(source: Path, target: Path, sha256: str) -> None:
    """Copy a file whose content has this hash, atomically and durably.

    Raises Refused when it has another content by now, UserError when the disk refuses.
    """
    hasher = hashlib.sha256()
    try:
        file = source.open("rb")
    except OSError as error:
        raise Refused("unreadable", f"cannot be read ({error.strerror}): check its permissions") from error
    with file, atomic_writer(target) as handle:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            handle.write(chunk)
        # Inside the writer, so that nothing appears under the name.
        _require_unchanged(hasher.hexdigest(), sha256)


def link_file(source: Path, target: Path, sha256: str) -> None:
    """Give a file a second name: no bytes are copied, and a change of one is a change of both.

    Raises Refused as `copy_file`, and where links cannot be made; UserError when the disk refuses.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, temporary)
        _require_unchanged(file_sha256(temporary), sha256)
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP}:
            raise Refused(
                "link", f"cannot be linked into {target.parent} ({error.strerror}): leave `link` out"
            ) from error
        raise write_error(target, error) from error
    finally:
        # Renaming over another link of the same file does nothing and leaves the temporary name.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _require_unchanged(found: str, expected: str) -> None:
    if found != expected:
        raise Refused("changed", "was changed while it was imported: run the same command again")
