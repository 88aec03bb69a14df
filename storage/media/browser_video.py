"""Videos as browsers play them: copies of a run's videos, and a small still of each.

Legend: T frames, H height, W width, 3 colours (RGB).
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.errors import UserError
from storage.media.video import encode, read_video

# All browsers play this pixel format; many refuse the full chroma that a run stores.
PIXEL_FORMAT = "yuv420p"
# A page steps through frames: short groups without frames that lean on later ones make any frame near.
OPTIONS = {"crf": "16", "preset": "veryfast", "g": "8", "bf": "0", "movflags": "+faststart"}
# Half-size chroma blurs the colours of a small picture: drawn twice as large it keeps one for every pixel.
TINY = 256
LARGE = 960
STILL = 160


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
            plain = context.name == "h264" and context.pix_fmt == PIXEL_FORMAT
            return bool(plain and min(sizes) >= TINY and max(sizes) <= LARGE)
    except (FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a video: import or sample it again") from error


def browser_video(frames_THW3: NDArray[np.uint8], fps: float) -> bytes:
    """H.264 that every browser plays and seeks in: tiny frames doubled, large ones made smaller."""
    frames = _even(_resized(frames_THW3))
    target = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1001)
    encode(target, np.ascontiguousarray(frames), rate, PIXEL_FORMAT, OPTIONS)
    return target.getvalue()


def still(frame_HW3: NDArray[np.uint8]) -> bytes:
    """A frame as WebP of at most 160 pixels on its long side."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frame_HW3))
    picture.thumbnail((STILL, STILL))
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
    if min(height, width) < TINY:
        return frames_THW3.repeat(2, axis=1).repeat(2, axis=2)
    factor = -(-max(height, width) // LARGE)
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
