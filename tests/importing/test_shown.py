"""Videos are taken in as players show them: one test a kind, with what is out of the ordinary in it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.importing.import_videos import run_import
from storage.media.clip import clip_of
from storage.media.foreign_video import inspect_video
from storage.media.pictures import write_image
from storage.media.video import browser_video, plays_in_browsers, read_video
from storage.run import Run
from tests.importing import clips
from tests.importing.foreign import CORNERS, Made, corners_of, make, picture
from tests.importing.shown import COMMON, LIMITS, assert_marks, imported, taken_in


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_video_is_upright_and_so_is_its_copy_for_browsers(
    run: Run, tmp_path: Path, turn: int, mirrored: bool
) -> None:
    made = Made(turn=turn, mirrored=mirrored, height=96, width=64)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", picture(0, 96, 64))
    row, frames = taken_in(run, tmp_path / "v")
    assert (row["height"], row["width"]) == (96, 64)
    assert_marks(frames, made)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(browser_video(frames, row["fps"]))
    assert np.abs(corners_of(read_video(copy)[0][::2, ::2]) - CORNERS).max() < 12
    done = imported(row)
    assert done["first_frame_psnr"] > 35
    assert done["video"].get("turned", 0) == (360 - turn) % 360  # with the clock; players are told against it
    assert done["video"].get("mirrored", False) == mirrored
    assert done["written_again"] == bool(turn or mirrored)


def test_what_an_edit_list_hides_is_not_taken_in(run: Run, tmp_path: Path) -> None:
    """As cuts by copying are: the group of pictures begins before the cut."""
    made = Made(lead=8, times=tuple(number / 8 for number in range(20)))
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    row, frames = taken_in(run, tmp_path / "v")
    assert row["num_frames"] == 20
    assert_marks(frames, made)


@pytest.mark.parametrize(("cover", "container"), [("attached", "mp4"), ("track", "mp4"), ("track", "mov")])
def test_the_moving_picture_is_taken_and_no_cover(
    run: Run, tmp_path: Path, cover: Any, container: str
) -> None:
    made = Made(cover=cover, container=container)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    row, frames = taken_in(run, tmp_path / "v")
    assert (row["num_frames"], row["fps"]) == (9, 8)
    assert_marks(frames, made)


def test_a_picture_alone_is_no_video(run: Run, tmp_path: Path) -> None:
    make(tmp_path / "v" / "a hall" / "1.mp4", Made(times=(0.0,)))
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    assert clips.rejected(run)["a hall/1.mp4"][0] == "not-a-video"


@pytest.mark.parametrize("shape", [Fraction(2), Fraction(1, 2), Fraction(16, 11), Fraction(8, 9)])
def test_pixels_become_square(run: Run, tmp_path: Path, shape: Fraction) -> None:
    made = Made(pixel_shape=shape, height=96, width=96)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    row, frames = taken_in(run, tmp_path / "v")
    assert abs(row["width"] - 96) <= 1
    assert row["height"] == 96
    assert_marks(frames, made)
    assert imported(row)["video"]["pixel_shape"] == str(shape)


def test_a_pixel_of_no_shape_is_refused(run: Run, tmp_path: Path) -> None:
    make(tmp_path / "v" / "a hall" / "1.mp4", Made(pixel_shape=Fraction(6), width=192))
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    assert clips.rejected(run)["a hall/1.mp4"][0] == "pixel-shape"


def test_the_duration_is_that_of_the_picture(run: Run, tmp_path: Path) -> None:
    made = Made(silence=70)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    assert taken_in(run, tmp_path / "v")[0]["num_frames"] == 9


@pytest.mark.parametrize("kind", COMMON)
def test_common_containers_and_codecs_are_taken_in(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "a", COMMON[kind])
    facts = inspect_video(path, LIMITS)
    # A few lossy ones at their default quality, and eight bits for a pixel.
    assert_marks(clip_of(path, facts, LIMITS), COMMON[kind], colour=9)
    rate = 25 if COMMON[kind].ticks == 25 else 10 if kind == "gif" else 8
    assert facts.fps == pytest.approx(rate, rel=0.01)
    assert facts.even


def test_a_video_that_is_in_the_run_as_it_is_stored_is_not_added_as_it_is_shown(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.importing import plan

    make(tmp_path / "v" / "a hall" / "1.mp4", Made(turn=90))
    # A run of a release that took files as they are.
    look = plan.inspect_video
    monkeypatch.setattr(
        plan,
        "inspect_video",
        lambda *given: replace(
            look(*given), plain=True, orientation=(1, 0, 0, 1), height=96, width=64, stored=(96, 64)
        ),
    )
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    monkeypatch.undo()
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    assert len(clips.rows(run)) == 1
    assert clips.rejected(run)["a hall/1.mp4"][0] == "as-stored"


def test_footage_is_measured_of_all_pictures_or_not_at_all(run: Run, tmp_path: Path) -> None:
    make(tmp_path / "v" / "a hall" / "1.mp4", Made())
    make(tmp_path / "v" / "a hall" / "2.mp4", Made(turn=90))
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    for row in clips.rows(run):
        assert ("bars" in imported(row)) == imported(row)["written_again"] == (row["seed"] == 2)


def test_a_page_gets_copies_of_what_it_cannot_step_through(tmp_path: Path) -> None:
    large = {"height": 256, "width": 320}
    assert plays_in_browsers(make(tmp_path / "a.mp4", Made(**large)))
    assert not plays_in_browsers(make(tmp_path / "b.mp4", Made(**large, silence=9)))
    assert not plays_in_browsers(make(tmp_path / "c.mp4", Made(**large, times=(0, 0.1, 0.15, 0.5, 0.6))))
