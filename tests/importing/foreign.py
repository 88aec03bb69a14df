"""Videos as strangers make them, with marks by which to see where, when and in which colour a picture is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

CORNERS = ((200, 40, 40), (40, 170, 60), (50, 60, 200), (200, 190, 60))
_BLOCK = 16
# This encoder aborts the process now and then on pictures of one or two blocks: it gets larger ones.
X265 = ("x265-params", "log-level=none:pools=none:frame-threads=1:ctu=16")


def picture(moment: float, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Soft grey, a colour in every corner (red, green, blue, yellow by lines), a white bar that says when.

    The bar's middle is at `moment`, from 0 to 1, of the way from a quarter of the width to three quarters.
    """
    y, x = np.mgrid[:height, :width]
    grey = 90 + 40 * np.sin(x / 5) * np.cos(y / 6)
    made = np.repeat(grey[..., None], 3, 2).round().astype(np.uint8)
    for number, colour in enumerate(CORNERS):
        rows = slice(0, _BLOCK) if number < 2 else slice(height - _BLOCK, height)
        columns = slice(0, _BLOCK) if number % 2 == 0 else slice(width - _BLOCK, width)
        made[rows, columns] = colour
    middle = width * (0.25 + 0.5 * moment)
    made[height // 2 - 6 : height // 2 + 6, round(middle) - 2 : round(middle) + 2] = 250
    return made


def corners_of(frame_HW3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean colours of the four corners, [4,3]."""
    height, width = frame_HW3.shape[:2]
    inset, size = 4, _BLOCK - 8
    found = []
    for number in range(4):
        y = inset if number < 2 else height - inset - size
        x = inset if number % 2 == 0 else width - inset - size
        found.append(frame_HW3[y : y + size, x : x + size].reshape(-1, 3).mean(0))
    return np.stack(found)


def moment_of(frame_HW3: NDArray[np.uint8]) -> float:
    """The moment that the bar of a picture says."""
    height, width = frame_HW3.shape[:2]
    line = frame_HW3[height // 2 - 3 : height // 2 + 3].astype(float).mean((0, 2))
    bright = np.clip(line - 160, 0, None)
    return float((bright * np.arange(width)).sum() / bright.sum() / width - 0.25) * 2


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a video is made: what the picture is shown as is stored turned, mirrored and squeezed.

    `times` are seconds, kept in `ticks` of a second (old containers know none but their frame rate); `lead`
    frames before them are hidden by an edit list. `turn` is in degrees against the
    clock, as players turn it.
    """

    codec: str = "libx264"
    container: str = "mp4"
    pixel_format: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    times: Sequence[float] = tuple(number / 8 for number in range(9))
    ticks: int = 1000
    height: int = 64
    width: int = 96
    turn: int = 0
    mirrored: bool = False
    pixel_shape: Fraction = Fraction(1)
    full_range: bool = False
    matrix: int = 1
    lead: int = 0
    cover: Literal["attached", "track", ""] = ""
    silence: float = 0.0


# The names that the library's scaler has for the matrices of H.273; 0 is RGB, 2 is not said.
_MATRICES = {0: "ITU709", 1: "ITU709", 5: "ITU601", 6: "ITU601", 2: "ITU601", 9: "BT2020"}


def stored_picture(shown_HW3: NDArray[np.uint8], made: Made) -> NDArray[np.uint8]:
    """The picture as it must be stored so that a player shows what is given."""
    image = Image.fromarray(shown_HW3)
    # A player turns, then mirrors: undone the other way round.
    if made.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if made.turn:
        image = image.rotate(-made.turn, expand=True)
    if made.pixel_shape != 1:
        # Even, for halved chroma.
        width = 2 * round(image.width / made.pixel_shape / 2)
        image = image.resize((width, image.height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def make(path: Path, made: Made) -> Path:
    """Write a video whose frame of second t has the mark of t's share of the whole time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=made.container) as container:
        cover = _cover(container, made.cover == "attached") if made.cover else None
        stream = _stream(container, made)
        sound = container.add_stream("aac", rate=8000) if made.silence else None
        if cover is not None:
            container.start_encoding()
            container.mux(_still(cover))
        last = max(made.times[-1], 1e-9)
        step = made.times[1] - made.times[0] if len(made.times) > 1 else 0.1
        times = [-step * number for number in range(made.lead, 0, -1)] + list(made.times)
        for time in times:
            # What is hidden has a mark of its own.
            shown = picture(time / last if time >= 0 else 0.5, made.height, made.width)
            frame = _frame(stored_picture(shown, made), made)
            frame.pts = round(time * made.ticks)
            frame.time_base = Fraction(1, made.ticks)
            for packet in stream.encode(frame):
                container.mux(packet)
        container.mux(stream.encode())
        if made.silence:
            _add_silence(container, sound, made.silence)
    return path


def _stream(container: Any, made: Made) -> Any:
    stream = container.add_stream(
        made.codec, rate=made.ticks if made.ticks < 100 else 8, options=dict(made.options)
    )
    first = stored_picture(picture(0, made.height, made.width), made)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = made.pixel_format
    context = stream.codec_context
    context.time_base = Fraction(1, made.ticks)
    context.colorspace, context.color_range = made.matrix, 2 if made.full_range else 1
    if made.pixel_shape != 1:
        stream.sample_aspect_ratio = made.pixel_shape
        context.sample_aspect_ratio = made.pixel_shape
    if made.turn or made.mirrored:
        stream.set_display_rotation(made.turn, hflip=made.mirrored)
    return stream


def _frame(stored_HW3: NDArray[np.uint8], made: Made) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored_HW3), format="rgb24")
    name = av.video.reformatter.Colorspace[_MATRICES[made.matrix]]
    target = av.video.reformatter.ColorRange.JPEG if made.full_range else av.video.reformatter.ColorRange.MPEG
    frame = frame.reformat(format=made.pixel_format, dst_colorspace=name, dst_color_range=target)
    frame.colorspace, frame.color_range = made.matrix, int(target)
    return frame


def _cover(container: Any, attached: bool) -> Any:
    """A stream for a picture of another kind and size: a cover, or a track of one frame."""
    from av.stream import Disposition

    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 48, 48, "yuvj420p"
    if attached:
        stream.disposition = Disposition.attached_pic
    return stream


def _still(stream: Any) -> av.Packet:
    encoded = io.BytesIO()
    Image.new("RGB", (48, 48), "grey").save(encoded, "JPEG")
    packet = av.Packet(encoded.getvalue())
    packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, stream.time_base
    packet.is_keyframe = True
    return packet


def _add_silence(container: Any, stream: Any, seconds: float) -> None:
    for number in range(int(seconds * 8000 / 1024)):
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts, sound.time_base = 8000, 1024 * number, Fraction(1, 8000)
        container.mux(stream.encode(sound))
    container.mux(stream.encode())
