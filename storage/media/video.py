"""Videos of a run, each written whole or not at all, and the copies that browsers play.

Pictures are in storage/media/pictures.py, tensors in storage/media/tensors.py. Legend: T frames,
H height, W width, 3 colours (RGB).
"""

from __future__ import annotations

import io
import itertools
import json
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from storage.atomic import write_bytes
from storage.errors import UserError
from storage.media.frames import rgb

# Measured round trips (9 frames, coloured texture from soft to white noise): crf 8 gives 44-41 dB at 64x64,
# 47-43 dB at 480x720; crf 12 falls to 37 dB. Chroma at half size (yuv420p), which more players take, gives
# 32-13 dB at any crf: a reprojection error would measure the codec. Full chroma also takes odd sizes.
_PIXEL_FORMAT = "yuv444p"
_ENCODER_OPTIONS = {"crf": "8", "preset": "medium"}
# x264's macroblock tree reads memory that nobody wrote: equal frames gave other bytes, and scores differed in
# their third digit, whenever the allocator handed out used memory (seen with glibc's MALLOC_PERTURB_).
_REPRODUCIBLE = {"x264-params": "mbtree=0"}


def write_video(path: Path, frames_THW3: NDArray[np.uint8], fps: float) -> None:
    """Write uint8 RGB frames as H.264 in mp4, visually lossless (above 40 dB), atomically.

    One encoder thread, so that equal frames give equal bytes. Raises ValueError for another dtype or shape,
    UserError when the disk refuses.
    """
    frames_THW3 = np.asarray(frames_THW3)
    if frames_THW3.dtype != np.uint8 or frames_THW3.ndim != 4 or frames_THW3.shape[-1] != 3:
        got = f"{frames_THW3.dtype} {frames_THW3.shape}"
        raise ValueError(f"frames_THW3 must be uint8 [T,H,W,3], got {got}: scale [0,1] by 255 and round")
    if 0 in frames_THW3.shape or not fps > 0:
        raise ValueError(
            f"a video needs frames and fps > 0, got {frames_THW3.shape} at {fps}: skip the write"
        )
    # Encoded in memory: the encoder then cannot leave half a file, and a full disk is an ordinary OSError.
    encoded = io.BytesIO()
    encode(encoded, np.ascontiguousarray(frames_THW3), Fraction(fps).limit_denominator(1001))
    write_bytes(path, encoded.getvalue())


def read_video(path: Path) -> NDArray[np.uint8]:
    """The frames of a video as uint8 RGB [T,H,W,3].

    Raises UserError for a missing, truncated or foreign file, and when fewer frames decode than it announces.
    """
    import av
    from av.error import FFmpegError

    try:
        # No guessing by content: some formats are lists of other files, which the library would open.
        with av.open(str(path), format="mp4", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise _unreadable(path, "it has no video")
            announced = container.streams.video[0].frames
            frames = [rgb(frame) for frame in container.decode(video=0)]
    except (FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path, "missing, truncated or not a video") from error
    if not frames or len(frames) < announced:
        raise _unreadable(path, f"truncated: {len(frames)} of {announced} frames decode")
    return np.stack(frames)


def encode(
    target: BinaryIO,
    frames_THW3: NDArray[np.uint8],
    rate: Fraction,
    pixel_format: str = _PIXEL_FORMAT,
    options: Mapping[str, str] = _ENCODER_OPTIONS,
) -> None:
    """Put uint8 RGB frames into a handle as H.264 in mp4, by one thread: equal frames give equal bytes."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    _, height, width, _ = frames_THW3.shape
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={**options, **_REPRODUCIBLE})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.thread_count = 1
        # Tagged, because players guess the matrix of an untagged file from its size.
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        for frame_HW3 in frames_THW3:
            frame = av.VideoFrame.from_ndarray(frame_HW3, format="rgb24").reformat(
                format=pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} cannot be read as a video ({why}): delete it and the shard that names it, "
        "then run the command that wrote it again"
    )


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_MOST_HEADER_BYTES = 100 * 2**20


def is_whole(path: Path) -> bool:
    """Whether a .mp4, .safetensors or .png file ends where its own structure says; others need only exist."""
    check = {".mp4": _is_whole_mp4, ".safetensors": _is_whole_safetensors, ".png": _is_whole_png}
    try:
        size = path.stat().st_size
        if path.suffix not in check:
            return True
        with path.open("rb") as file:
            return check[path.suffix](file, size)
    except (OSError, ValueError, struct.error):
        return False


def _is_whole_mp4(file: BinaryIO, size: int) -> bool:
    """Boxes follow one another to the end of the file; one of them is the index (ISO 14496-12, 4.2)."""
    position, names = 0, set()
    while position + 8 <= size:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        elif length == 0:
            length = size - position
        if length < 8:
            return False
        names.add(name)
        position += length
    return position <= size and b"moov" in names


def _is_whole_safetensors(file: BinaryIO, size: int) -> bool:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size, _MOST_HEADER_BYTES):
        return False
    header = json.loads(file.read(length))
    ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
    return bool(8 + length + max(ends, default=0) == size)


def _is_whole_png(file: BinaryIO, size: int) -> bool:
    begins = file.read(len(_PNG_START)) == _PNG_START
    file.seek(max(0, size - len(_PNG_END)))
    return begins and file.read() == _PNG_END


# All browsers play this pixel format; many refuse the full chroma that a run stores.
_BROWSER_PIXEL_FORMAT = "yuv420p"
# A page steps through frames: short groups without frames that lean on later ones make any frame near.
_BROWSER_OPTIONS = {"crf": "16", "preset": "veryfast", "g": "8", "bf": "0", "movflags": "+faststart"}
# Half-size chroma blurs the colours of a small picture: drawn twice as large it keeps one for every pixel.
_TINY = 256
_LARGE = 960
_STILL = 160


def plays_in_browsers(path: Path) -> bool:
    """Whether a video needs no copy: H.264 with halved chroma, neither tiny nor large.

    Raises UserError for a file that cannot be opened as a video.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), format="mp4", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video: import or sample it again")
            context = container.streams.video[0].codec_context
            sizes = (context.width, context.height)
            plain = context.name == "h264" and context.pix_fmt == _BROWSER_PIXEL_FORMAT
            # A page finds a frame by its share of the duration: that of the picture, in even steps.
            if len(container.streams) > 1 or not _is_even(container):
                return False
            return bool(plain and min(sizes) >= _TINY and max(sizes) <= _LARGE)
    except (FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a video: import or sample it again") from error


def _is_even(container: Any) -> bool:
    ticks = sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
    steps = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    return not steps or max(steps) - min(steps) <= max(1, min(steps) // 10)


def browser_video(frames_THW3: NDArray[np.uint8], fps: float) -> bytes:
    """H.264 that every browser plays and seeks in: tiny frames doubled, large ones made smaller."""
    frames = _even(_resized(frames_THW3))
    target = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1001)
    encode(target, np.ascontiguousarray(frames), rate, _BROWSER_PIXEL_FORMAT, _BROWSER_OPTIONS)
    return target.getvalue()


def still(frame_HW3: NDArray[np.uint8]) -> bytes:
    """A frame as WebP of at most 160 pixels on its long side."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frame_HW3))
    picture.thumbnail((_STILL, _STILL))
    target = io.BytesIO()
    picture.save(target, format="WEBP", quality=86, method=2)
    return target.getvalue()


def video_and_still(path: Path, fps: float) -> tuple[bytes | None, bytes]:
    """The browser copy of a video, None when it needs none, and its last frame, where clips differ most.

    Raises UserError for a video that cannot be read.
    """
    frames = read_video(path)
    copy = None if plays_in_browsers(path) else browser_video(frames, fps)
    return copy, still(frames[-1])


def _resized(frames_THW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frames_THW3.shape[1:3]
    if min(height, width) < _TINY:
        return frames_THW3.repeat(2, axis=1).repeat(2, axis=2)
    factor = -(-max(height, width) // _LARGE)
    if factor == 1:
        return frames_THW3
    # Means of whole blocks; what is left over at the far edges goes.
    high, wide = height // factor, width // factor
    cut = frames_THW3[:, : high * factor, : wide * factor]
    blocks = cut.reshape(len(cut), high, factor, wide, factor, 3)
    return np.stack([block.mean(axis=(1, 3)).round().astype(np.uint8) for block in blocks])


def _even(frames_THW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halved chroma needs even sizes: an odd edge is repeated."""
    odd = [(0, size % 2) for size in frames_THW3.shape[1:3]]
    return np.pad(frames_THW3, ((0, 0), *odd, (0, 0)), mode="edge")
