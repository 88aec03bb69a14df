"""The epipolar reward: what it prefers, how it is made up, and its reasons."""

from __future__ import annotations

from typing import Any

import cv2
import pytest
import torch

from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.corruptions import corrupt
from pipeline.world.scenes import make_scene
from rewards.epipolar import EpipolarReward, frame_pairs, pair_distance
from rewards.errors import RewardError
from rewards.matching.epipolar_geometry import estimate_fundamental, sampson_distance
from rewards.matching.matches import Matches
from rewards.options import EpipolarOptions
from rewards.table import REWARDS, load_reward, reward_version


def reward(**options: Any) -> EpipolarReward:
    built = load_reward("epipolar", options=EpipolarOptions(frames=9, **options))
    assert isinstance(built, EpipolarReward)
    return built


@pytest.mark.parametrize(("fault", "strength"), [("jitter", 1.5), ("warp", 3.0)])
def test_true_clips_beat_their_faulty_copies(fault: str, strength: float) -> None:
    wins = []
    for number in (0, 2, 3, 8):
        prompt = world_prompts("test", 10)[number]
        clip = render_prompt(prompt)
        faulty = corrupt(fault, make_scene(prompt.scene_id), clip, strength, number).clamp(0, 1)
        good, bad = (reward().score(frames) for frames in (clip.frames_THW3, faulty))
        assert good.value is not None
        assert good.sampson == -good.value
        wins.append(bad.value is None or good.value > bad.value)
    assert sum(wins) >= 3


def test_the_distance_is_the_mean_of_truncated_sampson_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    first = 64 * torch.rand(60, 2, generator=generator)
    depth = 1 + 3 * torch.rand(60, generator=generator)
    second = first + torch.stack([-8 / depth, torch.zeros(60)], 1)  # a camera that slides
    second[:6] += 9 * torch.rand(6, 2, generator=generator)
    matches = Matches(first_N2=first, second_N2=second, grain=0.25)
    found = estimate_fundamental(first, second, 0.25)
    assert found is not None
    distance = sampson_distance(found, first, second)
    plain = pair_distance(matches, EpipolarOptions(truncate=0.0), 64)
    cut = pair_distance(matches, EpipolarOptions(truncate=4.0), 64)
    assert plain == pytest.approx(float(distance.mean()))
    assert cut == pytest.approx(float(distance.clamp_max(1.0).mean()))
    assert distance[6:].max() < 0.01


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("adjacent", [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ("half", [(0, 2), (1, 3), (2, 4)]),
        ("first", [(0, 1), (0, 2), (0, 3), (0, 4)]),
    ],
)
def test_which_frames_are_matched(pairs: str, expected: list[tuple[int, int]]) -> None:
    assert frame_pairs(5, pairs) == expected


def test_the_same_bits_again_and_without_a_geometry_model() -> None:
    frames = render_prompt(world_prompts("test", 1)[0]).frames_THW3
    result = reward().score(frames)
    before = cv2.getNumThreads(), torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            torch.set_num_threads(threads)
            assert reward().score(frames) == result
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
    assert reward().geometry is None
    assert not REWARDS["epipolar"].needs_geometry
    assert reward().version != reward(ratio=0.8).version
    result = reward().score_many([frames])[0]
    assert result.frame_indices == tuple(range(9))
    assert result.image_motion is not None
    assert (result.motion, result.coverage, result.mse) == (None, None, None)


def test_what_cannot_be_measured_has_a_reason() -> None:
    clip = render_prompt(world_prompts("test", 1)[0]).frames_THW3
    still = reward().score(clip[:1].repeat(9, 1, 1, 1))
    assert still.reason == "0 of 5 pairs of frames can be measured: 5 with no motion"
    noise = torch.rand(9, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert "with too few matches" in str(reward().score(noise).reason)
    assert (
        reward().score(torch.full((9, 64, 64, 3), 0.5)).reason == "frame 0 of those used is one flat colour"
    )
    with pytest.raises(RewardError, match="frames must have shape"):
        reward().score(torch.rand(9, 3, 64, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": "all"}, "pairs must be one of adjacent, half, first, got 'all'"),
        ({"matcher": "orb"}, "matcher must be one of sift, lightglue-disk, lightglue-aliked, got 'orb'"),
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\], got 0\.0"),
        ({"threshold": 0.0}, "threshold must be > 0"),
        ({"truncate": -1.0}, r"truncate must be finite and >= 0, got -1\.0"),
        ({"min_matches": 7}, "min_matches must be >= 8"),
        ({"frames": 1}, "frames must be >= 2"),
    ],
)
def test_options_refuse(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpipolarOptions(**change)


def test_its_version_is_told_without_a_matcher() -> None:
    for options in (EpipolarOptions(), EpipolarOptions(frames=5, mutual=False)):
        built = load_reward("epipolar", options=options)
        assert reward_version("epipolar", options, None) == built.version
