"""Dense matches against the true motion of the embedded world."""

from __future__ import annotations

import sys

import cv2
import pytest
import torch

from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.motion import flow_to_first
from rewards.errors import RewardError
from rewards.matching.matches import dense_matches


@pytest.mark.parametrize("number", range(0, 10, 3))
def test_matches_follow_the_true_motion(number: int) -> None:
    clip = render_prompt(world_prompts("test", 10)[number])
    flow_THW2, visible_THW = flow_to_first(clip)
    here, there = dense_matches(clip.frames_THW3[6], clip.frames_THW3[0])
    assert here.shape[0] > 150
    column, row = here.round().long().unbind(1)
    # The true flow is known at whole pixels, the matches lie half a pixel beside them: little, where smooth.
    error = (here + flow_THW2[6, row, column] - there).norm(dim=1)[visible_THW[6, row, column]]
    moved = flow_THW2[6, row, column].norm(dim=1).median()
    assert moved > 1
    assert error.median() < 0.5


def test_every_number_of_threads_gives_the_same_bits() -> None:
    frames = render_prompt(world_prompts("test", 1)[0]).frames_THW3
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 3):
            cv2.setNumThreads(threads)
            found.append(dense_matches(frames[0], frames[8]))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_large_frame_is_not_enlarged_and_has_as_many_matches() -> None:
    small = render_prompt(world_prompts("test", 1)[0]).frames_THW3[[0, 4]]
    large = torch.nn.functional.interpolate(small.permute(0, 3, 1, 2), size=(288, 512), mode="bicubic")
    here, there = dense_matches(*large.clamp(0, 1).permute(0, 2, 3, 1))
    assert 150 < here.shape[0] <= 16 * 29
    assert here.frac().unique().tolist() == [0.0]
    assert bool((there >= 0).all())


def test_what_left_the_frame_is_no_match() -> None:
    texture = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    frame = torch.nn.functional.interpolate(texture, scale_factor=8, mode="bicubic").clamp(0, 1)[0]
    here, there = dense_matches(*(frame.permute(1, 2, 0)[:, left : left + 128] for left in (0, 12)))
    error = (there - here - torch.tensor([-12.0, 0.0])).norm(dim=1)
    assert error.median() < 0.01
    # The first of the sixteen columns of the grid is gone in the second frame, and half of the next.
    assert here[:, 0].min() > 11
    assert (here[:, 0] > 16).sum() == 14 * 16


def test_missing_opencv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        RewardError, match=r"need OpenCV; install it with: pip install opencv-python-headless"
    ):
        dense_matches(torch.zeros(64, 64, 3), torch.zeros(64, 64, 3))
