"""Colours are those that players show, and what no screen shows is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from storage.media.clip import clip_of
from storage.media.external_files import Refused
from storage.media.foreign_video import inspect_video
from tests.importing.foreign import Made, picture
from tests.importing.shown import LIMITS, X265_ONLY, assert_marks

# Colours by the light of a screen, the other way round than the code does it (BT.2100, BT.2408, BT.2087).
_TO_2020 = np.array(
    [[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]]
)

_TO_P3 = np.array([[0.822462, 0.177538, 0.0], [0.033194, 0.966806, 0.0], [0.017083, 0.072397, 0.910520]])


def _hlg(light: NDArray[np.float64]) -> NDArray[np.float64]:
    light = light * 203 / 1000
    luma = light @ [0.2627, 0.6780, 0.0593]
    scene = light * np.maximum(luma, 1e-9)[..., None] ** (-0.2 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def _pq(light: NDArray[np.float64]) -> NDArray[np.float64]:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (light * 203 / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def _of_screen(light: NDArray[np.float64]) -> NDArray[np.float64]:
    return light ** (1 / 2.4)


@pytest.mark.parametrize(
    ("transfer", "primaries", "matrix", "to_wide", "signal", "name"),
    [
        (18, 9, 9, _TO_2020, _hlg, "HLG, primaries 9"),
        (18, 2, 2, _TO_2020, _hlg, "HLG, primaries 2"),
        (16, 9, 9, _TO_2020, _pq, "PQ, primaries 9"),
        (14, 9, 9, _TO_2020, _of_screen, "primaries 9"),
        (1, 12, 1, _TO_P3, _of_screen, "primaries 12"),
    ],
)
def test_wide_colours_and_high_range_become_ordinary(
    tmp_path: Path,
    transfer: int,
    primaries: int,
    matrix: int,
    to_wide: NDArray[np.float64],
    signal: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    name: str,
) -> None:
    path = tmp_path / "a.mp4"
    made = Made(height=144, width=176)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=8, options={"crf": "4", **dict(X265_ONLY)})
        stream.width, stream.height, stream.pix_fmt = made.width, made.height, "yuv444p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, primaries, matrix
        context.color_range = 1
        for time in made.times:
            shown = picture(time / made.times[-1], made.height, made.width) / 255.0
            values = signal(np.clip(shown**2.4 @ to_wide.T, 0, 1))
            frame = _yuv444p10(values, matrix)
            frame.color_trc, frame.color_primaries, frame.colorspace = transfer, primaries, matrix
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    facts = inspect_video(path, LIMITS)
    assert facts.colours == name
    assert not facts.plain
    assert_marks(clip_of(path, facts, LIMITS), made, colour=5)


def _yuv444p10(values_HW3: NDArray[np.float64], matrix: int) -> av.VideoFrame:
    """By hand, from the definition of the matrix."""
    red, blue = (0.2126, 0.0722) if matrix == 1 else (0.2627, 0.0593)
    luma = values_HW3 @ [red, 1 - red - blue, blue]
    planes = (
        luma * 876 + 64,
        (values_HW3[..., 2] - luma) / (2 * (1 - blue)) * 896 + 512,
        (values_HW3[..., 0] - luma) / (2 * (1 - red)) * 896 + 512,
    )
    frame = av.VideoFrame(values_HW3.shape[1], values_HW3.shape[0], "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        line = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        line[:, : plane.width] = values.round()
        plane.update(line.tobytes())
    return frame


@pytest.mark.parametrize(("transfer", "primaries"), [(8, 1), (9, 9), (17, 1), (1, 10)])
def test_colours_of_no_screen_are_refused(tmp_path: Path, transfer: int, primaries: int) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, primaries
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0, 64, 64), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(Refused, match=r"has colours that cannot be converted .*: write it again as BT.709"):
        inspect_video(path, LIMITS)
