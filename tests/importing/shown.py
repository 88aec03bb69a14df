"""What the tests of how videos are shown share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.importing.import_videos import run_import
from storage.media.foreign_video import VideoLimits
from storage.media.video import read_video
from storage.run import Run
from tests.importing import clips
from tests.importing.foreign import CORNERS, X265, Made, corners_of, moment_of

LIMITS = VideoLimits(max_pixels=512 * 512, max_frames=64, max_seconds=8)

X265_ONLY = (X265,)

SIXTY = tuple(number / 25 for number in range(60))

_TENTHS = tuple(number / 10 for number in range(9))

RATE: dict[str, Any] = {
    "ticks": 25,
    "times": tuple(number / 25 for number in range(9)),
    "height": 288,
    "width": 352,
}

COMMON: dict[str, Made] = {
    "mp4 h264": Made(),
    "mp4 h264 4:4:4": Made(pixel_format="yuv444p"),
    "mp4 h264 10 bits": Made(pixel_format="yuv420p10le"),
    "mp4 h264 full range": Made(full_range=True),
    "mp4 h264 untagged": Made(matrix=2),
    "mp4 h264 RGB": Made(codec="libx264rgb", pixel_format="rgb24", matrix=0),
    "mov h264": Made(container="mov"),
    "m4v h264": Made(container="ipod"),
    "3gp h264": Made(container="3gp"),
    "mkv h264": Made(container="matroska"),
    "ts h264": Made(container="mpegts"),
    "flv h264": Made(container="flv"),
    "avi h264": Made(container="avi", **RATE),
    "mp4 hevc": Made(codec="libx265", options=X265_ONLY, height=144, width=176),
    "mkv hevc 10 bits": Made(
        codec="libx265",
        options=X265_ONLY,
        container="matroska",
        pixel_format="yuv420p10le",
        height=144,
        width=176,
    ),
    "mp4 av1": Made(codec="libsvtav1"),
    "webm av1": Made(codec="libsvtav1", container="webm"),
    "webm vp9": Made(codec="libvpx-vp9", container="webm"),
    "webm vp8": Made(codec="libvpx", container="webm", matrix=6),
    "mp4 mpeg4": Made(codec="mpeg4", matrix=6),
    "avi mpeg4": Made(codec="mpeg4", container="avi", options=(("bf", "2"),), matrix=6, **RATE),
    "avi mjpeg": Made(
        codec="mjpeg", container="avi", pixel_format="yuvj420p", full_range=True, matrix=6, **RATE
    ),
    "mpg mpeg2": Made(codec="mpeg2video", container="mpeg", matrix=6, **RATE),
    "ts mpeg2": Made(codec="mpeg2video", container="mpegts", **RATE),
    "mov prores": Made(codec="prores_ks", container="mov", pixel_format="yuv422p10le"),
    "mov dnxhd": Made(
        codec="dnxhd", container="mov", pixel_format="yuv422p", options=(("profile", "dnxhr_hq"),), **RATE
    ),
    "mkv ffv1": Made(codec="ffv1", container="matroska", pixel_format="yuv444p"),
    "wmv": Made(codec="wmv2", container="asf", matrix=6),
    "gif": Made(codec="gif", container="gif", pixel_format="rgb8", times=_TENTHS),
}


def taken_in(run: Run, source: Path, **changes: Any) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The row and the frames of the only video of a source."""
    summary = run_import(run, clips.settings(source, limits=LIMITS, **changes))
    assert (summary.done, summary.failed) == (1, 0), summary.reason
    (row,) = clips.rows(run)
    return row, read_video(run.resolve(row["video_uri"]))


def imported(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["sampler"])["imported"]
    return found


def assert_marks(frames_THW3: NDArray[np.uint8], made: Made, colour: float = 6) -> None:
    for frame, time in zip(frames_THW3, made.times, strict=True):
        assert np.abs(corners_of(frame) - CORNERS).max() < colour
        assert abs(moment_of(frame) - time / made.times[-1]) < 0.03
