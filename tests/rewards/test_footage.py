"""What is no single scene, in clips made for it: a camera that pans over a picture of many grains."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rewards.footage.footage import Footage, measure_footage
from storage.mining.rules import OF_FOOTAGE, PairRules

Clip = NDArray[np.uint8]
SHARES = ("cut", "fade", "bars", "overlay", "split_screen")


def pan(
    seed: int, frames: int = 17, height: int = 96, width: int = 144, step: int = 2, finest: int = 4
) -> Clip:
    """A camera that moves `step` pixels a frame over a picture with large and small grains."""
    generator = np.random.default_rng(seed)
    size = (height, width + step * frames)
    picture = np.zeros((*size, 3), np.float32)
    for grain in (finest, 12, 40):
        grains = generator.uniform(-60, 60, (-(-size[0] // grain) + 1, -(-size[1] // grain) + 1, 3))
        picture += cv2.resize(grains.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    colours = (picture + 128).clip(0, 255).astype(np.uint8)
    return np.stack([colours[:, step * t : step * t + width] for t in range(frames)])


def broken(footage: Footage) -> list[str]:
    """The rules of footage that a clip breaks by the bounds of pairing."""
    rules = PairRules()
    return [
        one.rule for one in OF_FOOTAGE if (getattr(footage, one.measure) or 0) > getattr(rules, one.field)
    ]


@pytest.mark.parametrize("step", [0, 1, 2, 6])
@pytest.mark.parametrize("frames", [9, 17])
def test_one_scene_breaks_no_rule(step: int, frames: int) -> None:
    found = measure_footage(pan(0, frames, step=step))
    assert broken(found) == []
    assert found.overlay < 0.01
    assert found.split_screen < 0.5


@pytest.mark.parametrize("at", [1, 8, 16])
def test_a_cut_is_found_wherever_it_is(at: int) -> None:
    one, other = pan(0), pan(1)
    assert broken(measure_footage(np.concatenate([one[:at], other[at:]]))) == ["cut"]


def test_a_clip_that_falls_to_pieces_everywhere_is_not_cut() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    assert measure_footage(noise).cut == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("length", [6, 12])
def test_a_fade_is_found(level: int, length: int) -> None:
    one = pan(0)
    share = np.clip((np.arange(len(one)) - len(one) + length) / (length - 1), 0, 1)[:, None, None, None]
    faded = (one * (1 - share) + level * share).astype(np.uint8)
    assert "fade" in broken(measure_footage(faded)), "a fast one is a cut as well"


def test_a_dissolve_is_found() -> None:
    one, other = pan(0, step=1), pan(1, step=1)
    share = np.clip((np.arange(len(one)) - 4) / 8, 0, 1)[:, None, None, None]
    assert broken(measure_footage((one * (1 - share) + other * share).astype(np.uint8))) == ["fade"]


@pytest.mark.parametrize(("top", "left"), [(12, 0), (0, 20), (12, 20)])
@pytest.mark.parametrize("colour", [0, 255])
def test_bars_are_as_wide_as_they_are(top: int, left: int, colour: int) -> None:
    clip = np.pad(pan(0), ((0, 0), (top, top), (left, left), (0, 0)), constant_values=colour)
    found = measure_footage(clip)
    covered = 1 - 96 * 144 / ((96 + 2 * top) * (144 + 2 * left))
    assert found.bars == pytest.approx(covered, abs=0.02)
    assert broken(found) == ["bars"]


def test_the_empty_ground_around_a_thing_is_no_bar() -> None:
    clip = np.full((9, 96, 96, 3), 255, np.uint8)
    for time, frame in enumerate(clip):
        cv2.circle(frame, (40 + 2 * time, 48), 24, (40, 90, 160), -1)
    assert measure_footage(clip).bars == 0


def test_letters_that_stand_are_an_overlay_and_letters_of_the_scene_are_none() -> None:
    def written(clip: Clip, step: int) -> Clip:
        marked = np.ascontiguousarray(clip.copy())
        for time, frame in enumerate(marked):
            place = (30 - step * time, 84)
            cv2.putText(frame, "no scene", place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 5)
            cv2.putText(frame, "no scene", place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
        return marked

    assert measure_footage(written(pan(0), 0)).overlay > 0.01
    assert measure_footage(written(pan(0), 2)).overlay < 0.001
    assert measure_footage(written(pan(0, step=0), 0)).overlay == 0, "all of the picture stands"


@pytest.mark.parametrize("axis", [1, 2])
def test_two_clips_side_by_side_meet_at_a_line(axis: int) -> None:
    both = np.concatenate([pan(0, finest=10), pan(1, finest=10)], axis=axis)
    assert measure_footage(both).split_screen > 0.5


def test_copies_are_nearer_than_other_takes() -> None:
    def thumbnail(clip: Clip) -> NDArray[np.float64]:
        return np.array(measure_footage(clip).thumbnail, float)

    clip = pan(0, height=128, width=192)
    half = np.stack([cv2.resize(frame, (96, 64), interpolation=cv2.INTER_AREA) for frame in clip])
    noisy = (clip + np.random.default_rng(0).normal(0, 4, clip.shape)).clip(0, 255).astype(np.uint8)

    def difference(one: Clip) -> float:
        return float(np.sqrt(((thumbnail(one) - thumbnail(clip)) ** 2).mean()) / thumbnail(clip).std())

    assert max(difference(half), difference(noisy)) < PairRules().min_difference
    other = pan(0, height=128, width=192, step=3)
    other[0] = clip[0]
    assert difference(other) > PairRules().min_difference


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10), st.integers(1, 40), st.integers(1, 90), st.integers(0, 3))
def test_every_size_and_length_has_its_shares(frames: int, height: int, width: int, seed: int) -> None:
    clip = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    before = clip.copy()
    found = measure_footage(clip)
    shares = {name: getattr(found, name) for name in SHARES}
    assert (shares["cut"] is None) == (frames < 3)
    assert (shares["fade"] is None) == (frames < 5)
    assert all(share is None or 0 <= share <= 1 for share in shares.values()), shares
    assert len(found.thumbnail) == 256
    assert measure_footage(clip) == found
    assert (clip == before).all()


def test_threads_change_nothing() -> None:
    clip, threads = pan(3, 9, 240, 360), cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        found = measure_footage(clip)
        assert cv2.getNumThreads() == 4
        cv2.setNumThreads(1)
        assert measure_footage(clip) == found
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((3, 8, 8, 3), np.float32), np.zeros((3, 8, 8, 4), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)],
)
def test_what_is_no_clip_is_refused(frames: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"frames_THW3 must be uint8 \[T,H,W,3\] with a frame, got"):
        measure_footage(frames)
