"""Frames are taken by time, first frames as their videos are; each video once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.importing.import_videos import run_import
from storage.errors import UserError
from storage.media.clip import Target, clip_of
from storage.media.external_files import Refused
from storage.media.foreign_video import VideoFacts, VideoLimits, inspect_video
from storage.media.pictures import write_image
from storage.run import Run
from tests.importing import clips
from tests.importing.foreign import Made, make, moment_of, picture
from tests.importing.shown import LIMITS, imported, taken_in


def facts_of(times: tuple[float, ...], fps: float, even: bool = True) -> VideoFacts:
    return VideoFacts(
        frames=len(times), height=32, width=32, fps=fps, stored=(32, 32), times=times, even=even
    )


@pytest.mark.parametrize(
    ("rate", "frames", "expected"),
    [
        (60, 60, [0, 8, 15, 22, 30]),  # 7.5 frames apart: the nearest, of two alike the earlier
        (24, 49, [0, 3, 6, 9, 12]),
        (8, 9, [0, 1, 2, 3, 4]),
        (8.1, 9, [0, 1, 2, 3, 4]),  # the same rate but for rounding
        (10, 49, [0, 1, 2, 4, 5]),
    ],
)
def test_frames_are_taken_by_time(rate: float, frames: int, expected: list[int]) -> None:
    facts = facts_of(tuple(number / rate for number in range(frames)), rate)
    target = Target(frames=5, height=32, width=32, fps=8, fit="crop")
    target.require(facts)
    moments = target.moments(facts)
    if rate == 60:
        expected[1:4] = moments[1:4]
        assert all(abs(number / 60 - index / 8) <= 0.5 / 60 + 1e-9 for index, number in enumerate(moments))
    assert moments == expected


@pytest.mark.parametrize(
    ("facts", "fit", "rule", "message"),
    [
        (facts_of((0, 0.2, 0.4, 0.6, 0.8), 5), "crop", "frame-rate", "give `fps` 5 if it is no slow motion"),
        (facts_of((0, 0.1, 0.2, 0.3, 0.4), 10), "exact", "frame-rate", "give `fps` 10 to take it as it is"),
        (facts_of((0, 0.1, 0.3, 0.35, 0.5), 8, even=False), "exact", "frame-rate", "has uneven frames"),
        (facts_of((0, 0.1, 0.2, 0.3), 10), "crop", "too-short", "has 4 frames of 32x32 at 10 a second"),
    ],
)
def test_another_rate_is_never_taken_silently(facts: VideoFacts, fit: Any, rule: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as error:
        Target(frames=5, height=32, width=32, fps=8, fit=fit).require(facts)
    assert error.value.rule == rule


def test_a_fast_video_is_sampled_for_a_model_and_the_row_says_so(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    made = Made(times=tuple(number / 60 for number in range(61)), turn=90, height=48, width=80, ticks=60)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", picture(0, 48, 80))
    row, frames = taken_in(run, tmp_path / "v", model=tiny_model, fit="crop")
    assert (row["num_frames"], row["height"], row["width"], row["fps"]) == (9, 32, 32, 8)
    moments = [moment_of(frame) for frame in clip_of(*_wide(tmp_path / "v" / "a hall" / "1.mp4"))]
    assert np.abs(np.array(moments) - np.arange(9) / 8).max() < 0.03
    done = imported(row)
    assert done["by_time"] == {"fps": 8, "repeated": 0}
    assert (done["fit"], done["video"]["size"], done["video"]["fps"]) == ("crop", [80, 48], 60)
    # The picture that a person gave is cut as the video is.
    assert done["first_frame_psnr"] > 30
    assert len(frames) == 9


def _wide(path: Path) -> tuple[Path, VideoFacts, VideoLimits, Target]:
    target = Target(frames=9, height=48, width=80, fps=8, fit="crop")
    return path, inspect_video(path, LIMITS), LIMITS, target


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_the_first_frame_is_fitted_as_the_video_is(
    run: Run, tmp_path: Path, tiny_model: Path, fit: str
) -> None:
    clips.clip(tmp_path / "v" / "a hall" / "1.mp4", count=9, height=32, width=64)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", clips.frames(count=9, height=32, width=64)[0])
    row, _ = taken_in(run, tmp_path / "v", model=tiny_model, fit=fit)
    assert imported(row)["first_frame_psnr"] > 25


def test_another_aspect_of_the_first_frame_is_refused_where_nothing_is_fitted(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    clips.clip(tmp_path / "v" / "a hall" / "1.mp4")
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", picture(0, 32, 64))
    run_import(run, clips.settings(tmp_path / "v", tiny_model))
    rule, reason = clips.rejected(run)["a hall/1.mp4"]
    assert rule == "first-frame"
    assert "another aspect than the model's 32x32" in reason


def test_a_first_frame_of_another_clip_is_said_and_can_be_refused(run: Run, tmp_path: Path) -> None:
    from pipeline.importing.notes import notes_of

    clips.clip(tmp_path / "v" / "a hall" / "1.mp4", seed=1)
    clips.clip(tmp_path / "v" / "a hall" / "2.mp4", seed=2)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", clips.frames(1)[0])
    strict = clips.settings(tmp_path / "v", min_first_frame_psnr=25)
    assert (summary := run_import(run, strict)).done == 1
    assert "begins with another picture than the first frame given for it" in str(summary.reason)
    assert [rule for rule, _ in clips.rejected(run).values()] == ["first-frame-differs"]
    assert run_import(run, clips.settings(tmp_path / "v")).done == 1
    notes = notes_of(run, {row["candidate_id"] for row in clips.rows(run)})
    ((name, psnr),) = notes.unlike
    assert name == "a hall/2.mp4"
    assert psnr < 20
    assert (
        f"1 begin with another picture than their first frame (a hall/2.mp4 {psnr:.1f} dB)"
        in notes.lines()[-1]
    )


def test_a_video_is_in_a_run_once(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    clips.clip(tmp_path / "v" / "a hall" / "1.mp4", height=32, width=64)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", clips.frames(height=32, width=64)[0])
    assert run_import(run, clips.settings(tmp_path / "v", tiny_model, fit="resize")).done == 1
    again = run_import(run, clips.settings(tmp_path / "v", tiny_model, fit="resize"))
    assert (again.present, again.failed) == (1, 0)
    clips.clip(tmp_path / "v" / "a hall" / "1.mp4", seed=9, height=32, width=64)
    assert run_import(run, clips.settings(tmp_path / "v", tiny_model, fit="resize")).failed == 1
    assert clips.rejected(run)["a hall/1.mp4"][0] == "duplicate-seed"
    assert len(clips.rows(run)) == 1


@pytest.mark.parametrize("value", [-1, 99.1, float("inf"), float("nan")])
def test_a_least_psnr_that_no_pictures_have_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(UserError, match="min_first_frame_psnr must be 0 to 99, which equal pictures have"):
        clips.settings(tmp_path, min_first_frame_psnr=value)
