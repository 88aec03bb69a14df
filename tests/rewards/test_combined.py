"""The combined reward: what it is made of, what it prefers, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.corruptions import corrupt
from pipeline.world.render import Clip
from pipeline.world.scenes import make_scene
from rewards import combined
from rewards.combined import measure_matches
from rewards.geometry.reconstruction import Reconstruction
from rewards.measures.quality import image_motion
from rewards.options import CombinedOptions, ReprojectionOptions
from rewards.table import Reward, load_reward


class Truth:
    """A backend that knows the scene, whatever the frames show."""

    name, model, revision, license = "truth", "truth", "1", "none"

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def reconstruct(self, frames_THW3: Tensor) -> Reconstruction:
        return Reconstruction(
            frames_THW3=frames_THW3,
            depth_THW=self.clip.depth_THW,
            confidence_THW=torch.ones_like(self.clip.depth_THW),
            intrinsics_T33=self.clip.intrinsics_T33,
            w2c_T34=self.clip.w2c_T34,
        )


def reward_of(clip: Clip, **options: Any) -> Reward:
    return load_reward("combined", geometry=Truth(clip), options=CombinedOptions(frames=9, **options))


@pytest.mark.parametrize("pairs", ["first", "half"])
def test_the_value_is_the_geometric_mean_of_both_errors_per_motion(pairs: str) -> None:
    prompt = world_prompts("test", 1)[0]
    clip = render_prompt(prompt)
    frames = corrupt("warp", make_scene(prompt.scene_id), clip, 2.0, 0)
    result = reward_of(clip, pairs=pairs).score(frames)
    plain = load_reward(
        "reprojection", geometry=Truth(clip), options=ReprojectionOptions(frames=9, photometric="l1")
    ).score(frames)
    sampson, measured, chosen = measure_matches(Truth(clip).reconstruct(frames), pairs)
    assert measured == result.measured_pairs == chosen == (8 if pairs == "first" else 5)
    assert result.sampson == sampson
    assert plain.value is not None
    assert sampson is not None
    expected = (-plain.value * sampson / image_motion(frames)) ** 0.5
    assert result.value == pytest.approx(-expected, rel=1e-6)
    assert (result.mse, result.motion, result.frame_errors) == (plain.mse, plain.motion, plain.frame_errors)


@pytest.mark.parametrize(
    ("fault", "strength"), [("warp", 1.5), ("texture_drift", 3.0), ("moving_boxes", 0.3)]
)
def test_a_true_clip_beats_its_faulty_copy(fault: str, strength: float) -> None:
    for number in (0, 2, 5, 8):  # a push, a slide, a pan, an orbit
        prompt = world_prompts("test", 10)[number]
        clip = render_prompt(prompt)
        faulty = corrupt(fault, make_scene(prompt.scene_id), clip, strength, number)
        reward = reward_of(clip)
        good, bad = reward.score(clip.frames_THW3).value, reward.score(faulty.clamp(0, 1)).value
        assert good is not None
        assert bad is not None
        assert good > bad


def test_a_still_clip_has_no_value() -> None:
    clip = render_prompt(world_prompts("test", 1)[0])
    still = clip.frames_THW3[:1].repeat(9, 1, 1, 1)
    result = reward_of(clip).score(still)
    assert result.value is None
    assert result.reason == "the clip stands still: image motion 0 is below 0.05"
    assert result.image_motion == 0


def test_frames_without_matches_have_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = render_prompt(world_prompts("test", 1)[0])
    few = lambda first, second: (torch.zeros(19, 2), torch.zeros(19, 2))  # noqa: E731
    monkeypatch.setattr(combined, "dense_matches", few)
    result = reward_of(clip).score(clip.frames_THW3)
    assert (result.value, result.measured_pairs) == (None, 0)
    assert result.reason == "0 of 5 pairs of frames have 20 matches, half are needed"


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs must be one of first, half, got 'all'"):
        CombinedOptions(pairs="all")
    with pytest.raises(ValueError, match=r"min_image_motion must be finite and > 0, got 0\.0"):
        CombinedOptions(min_image_motion=0.0)
    with pytest.raises(ValueError, match="photometric must be one of mse, l1, got 'l2'"):
        CombinedOptions(photometric="l2")
