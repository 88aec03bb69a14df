"""Random videos of valid kinds: their marks are found where, when and in the colour that players show."""

from __future__ import annotations

import itertools
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.importing.import_videos import run_import
from storage.media.clip import Target, clip_of
from storage.media.foreign_video import VideoLimits, inspect_video
from storage.media.video import read_video
from storage.run import Run
from tests.importing import clips
from tests.importing.foreign import CORNERS, Made, corners_of, make, moment_of

_LIMITS = VideoLimits(max_pixels=512 * 512, max_frames=64, max_seconds=8)
# Halved chroma, rounding, the encoder, and the copy of a run: eight of 255 steps.
_COLOUR = 9.0
# A pixel of the bar, and half a column.
_MOMENT = 0.03

_CODECS = st.sampled_from(
    [
        ("libx264", "mp4", "yuv420p"),
        ("libx264", "mp4", "yuv444p10le"),
        ("libx264", "mov", "yuv420p"),
        ("libx264", "matroska", "yuv420p"),
        ("libsvtav1", "mp4", "yuv420p10le"),
        ("libvpx-vp9", "webm", "yuv420p"),
        ("libsvtav1", "mp4", "yuv420p"),
        ("ffv1", "matroska", "yuv444p"),
        ("prores_ks", "mov", "yuv422p10le"),
    ]
)
_OPTIONS = {
    "libx264": (("crf", "10"),),
    "libvpx-vp9": (("crf", "10"), ("b", "0")),
    "libsvtav1": (("crf", "10"),),
}  # fmt: skip

_SHAPES = st.sampled_from([Fraction(1), Fraction(1), Fraction(2), Fraction(1, 2), Fraction(4, 3)])


@st.composite
def made_videos(draw: st.DrawFn) -> Made:
    codec, container, pixel_format = draw(_CODECS)
    # Only these containers say how a picture is turned; prores says its own range.
    turns = container in {"mp4", "mov", "matroska"}
    rates = draw(st.sampled_from([5, 8, 10, 12.5, 24, 25, 29.97, 30, 50, 60]))
    count = draw(st.integers(6, 14))
    steps = [1 / rates] * (count - 1)
    if draw(st.booleans()):
        steps = [step * draw(st.floats(0.5, 3)) for step in steps]
    return Made(
        codec=codec,
        container=container,
        pixel_format=pixel_format,
        options=_OPTIONS.get(codec, ()),
        times=tuple(itertools.accumulate(steps, initial=0.0)),
        height=2 * draw(st.integers(32, 64)),
        width=2 * draw(st.integers(40, 80)),
        turn=draw(st.sampled_from([0, 90, 180, 270])) if turns else 0,
        mirrored=turns and container != "matroska" and draw(st.booleans()),
        pixel_shape=draw(_SHAPES) if container in {"mp4", "mov"} else Fraction(1),
        full_range=codec == "libx264" and draw(st.booleans()),
        matrix=draw(st.sampled_from([1, 2, 6, 9])) if codec == "libx264" else 1,
        lead=draw(st.integers(0, 3)) if (codec, container) == ("libx264", "mp4") else 0,
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(made=made_videos(), fit=st.sampled_from(["crop", "resize"]), share=st.floats(0.3, 1.0))
def test_marks_are_where_when_and_in_the_colour_they_must_be(made: Made, fit: str, share: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = make(Path(name) / "videos" / "a hall" / "1.mp4", made)
        run = Run.create_or_open(Path(name) / "run")
        summary = run_import(run, clips.settings(path.parent.parent, limits=_LIMITS))
        assert (summary.done, summary.failed) == (1, 0), summary.reason
        (row,) = clips.rows(run)
        kept = read_video(run.resolve(row["video_uri"]))
        assert kept.shape[0] == len(made.times) == row["num_frames"]
        assert abs(kept.shape[1] - made.height) <= 2
        assert abs(kept.shape[2] - made.width) <= 2
        for frame, time in zip(kept, made.times, strict=True):
            assert np.abs(corners_of(frame) - CORNERS).max() < _COLOUR
            assert abs(moment_of(frame) - time / made.times[-1]) < _MOMENT

        # The clip of a model: frames by time, of another size.
        facts = inspect_video(path, _LIMITS)
        fps = max(1.0, facts.fps * share)
        count = int(facts.times[-1] * fps) + 1
        height, width = (64, 112) if fit == "resize" else (80, 80)
        target = Target(frames=count, height=height, width=width, fps=fps, fit=fit)  # type: ignore[arg-type]
        target.require(facts)
        clip = clip_of(path, facts, _LIMITS, target)
        assert clip.shape == (count, height, width, 3)
        for number, frame in enumerate(clip):
            wanted = number / (facts.fps if target.has_its_rate(facts) else fps)
            # Times are kept in thousandths, which decide where a moment is halfway between two frames.
            nearest = min(abs(time - wanted) for time in made.times) + 2e-3
            shown = [time / made.times[-1] for time in made.times if abs(time - wanted) <= nearest]
            if fit == "resize":
                assert min(abs(moment_of(frame) - time) for time in shown) < _MOMENT + 1 / width
