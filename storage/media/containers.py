"""Files of videos, opened by what they begin with: the moving picture in them, decoded without mercy."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.media.external_files import Refused

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


@contextmanager
def opened(path: Path, max_pixels: int, **options: str) -> Iterator[tuple[Any, Any]]:
    """The container and its moving picture, to be read once; whatever is wrong is raised as Refused."""
    import av
    from av.error import FFmpegError

    options = {"protocol_whitelist": "file", **options}
    try:
        with av.open(str(path), format=container_of(path), options=options) as container:
            stream = _moving_picture(container)
            context = stream.codec_context
            if context is None or context.name not in _CODECS:
                name = "an unknown codec" if context is None else context.name
                raise Refused("codec", f"is coded as {name}: convert it, to h264 for one")
            # What a decoder finds wrong is an error, where it would paint over it, and is told of its packet:
            # threads that share a frame keep it to themselves, those that share a video tell it late (and are
            # no faster on two cores). `max_pixels` is its own bound, of whole blocks: a frame far larger than
            # announced is refused before it is made.
            context.thread_type = "NONE"
            context.options = {"max_pixels": str(2 * max_pixels + 2**16), "err_detect": "explode"}
            yield container, stream
    except Refused:
        raise
    except (FFmpegError, OSError, ValueError, OverflowError) as error:
        why = str(getattr(error, "strerror", None) or error or type(error).__name__)
        raise Refused("unreadable", f"is truncated or damaged ({why}): get it again") from error


def container_of(path: Path) -> str:
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
    moving = {one.index: one.frames != 1 for one in streams}
    if len(streams) > 1 and not any(one.frames for one in streams):
        counts = _packets_of(container.name, container.format.name)
        moving = {one.index: counts.get(one.index, 0) > 1 for one in streams}
    return max(streams, key=lambda one: (moving[one.index], bool(one.disposition & Disposition.default)))


def _packets_of(name: str, kind: str) -> dict[int, int]:
    """How many packets the video streams of a file have, where its header does not say."""
    import av

    counts: dict[int, int] = {}
    with av.open(name, format=kind.split(",")[0], options={"protocol_whitelist": "file"}) as container:
        for packet in container.demux(video=list(range(len(container.streams.video)))):
            counts[packet.stream_index] = counts.get(packet.stream_index, 0) + bool(packet.size)
    return counts
