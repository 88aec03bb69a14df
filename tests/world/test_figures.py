"""The statistics of the held-out figures agree with values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.world.clips import render_prompt, scene_ids, world_prompts
from pipeline.world.corruptions import corrupt
from pipeline.world.figures import SUBJECTS, FigureTable, HeldOut, measure
from pipeline.world.figures.ranking import agreement
from pipeline.world.figures.reward import VIEWS, reward_of, separation, true_reconstruction
from pipeline.world.figures.statistics import ranks, spearman, win_rate
from pipeline.world.scenes import make_scene
from storage.errors import UserError


def test_ranks_share_ties() -> None:
    assert ranks([30.0, 10.0, 30.0, 20.0]).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_spearman_by_hand() -> None:
    assert spearman([1, 2, 3, 4, 5], [10, 20, 30, 40, 500]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [7, 7, 7]) is None


def test_win_rate_counts_ties_half() -> None:
    assert win_rate([1.0, 2.0, 3.0], [0.0, 2.0, 4.0]) == pytest.approx(0.5)


def test_agreement_leaves_out_what_was_not_scored() -> None:
    errors = [[0.1, 0.2, math.nan], [0.3, 0.1, 0.2], [math.nan, math.nan, 0.1]]
    faults = [[0.0, 0.9, 0.0], [0.1, 0.2, 0.9], [0.0, 0.5, 1.0]]
    agreed = agreement(errors, faults)
    (rho, low, high, ranked), (won, *_, compared) = agreed["Spearman"], agreed["win rate"]
    # The first prompt agrees; in the second the ranks (3, 1, 2) and (1, 2, 3) correlate by -1/2.
    assert rho == pytest.approx((1.0 - 0.5) / 2)
    assert (ranked, compared) == (2, 2)
    assert won == pytest.approx(0.5)
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert low <= rho <= high


def test_separation_counts_clips_without_a_reward() -> None:
    rewards = {"clean": [-1.0, -2.0, math.nan], "warp@3": [-3.0, -1.5, -9.0]}
    area, won, lost = separation(rewards, "warp@3")
    # Of the four pairs, clean is ahead in -1 > -3, -1 > -1.5 and -2 > -3.
    assert (area, won, lost) == (0.75, 0.5, 1)
    assert separation({"clean": [math.nan], "warp@3": [-1.0]}, "warp@3") == (None, None, 1)


@pytest.mark.parametrize("views", VIEWS)
def test_true_geometry_explains_the_true_clip_and_not_a_warped_one(views: str) -> None:
    prompt = world_prompts("test", 3)[2]
    clip = render_prompt(prompt)
    warped = corrupt("warp", make_scene(prompt.scene_id), clip, 3.0, 1)
    clean = reward_of(true_reconstruction(clip.frames_THW3, clip), views)
    assert reward_of(true_reconstruction(warped, clip), views) < 2 * clean < 0


def test_the_scenes_of_the_figures_are_held_out() -> None:
    held_out = HeldOut(clips=30, prompts=20)
    assert held_out.split == "test"
    train = scene_ids("train", 4000)
    measured = {prompt.scene_id for prompt in (*held_out.clip_prompts, *held_out.sample_prompts)}
    assert len(measured) == 30
    assert not measured & set(train)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_missing_checkpoint_is_named_before_any_work(tmp_path: Path, subject: str) -> None:
    with pytest.raises(UserError, match=r"holds no \w+ checkpoint .* run `gpa pretrain-world`"):
        measure(HeldOut(checkpoints=tmp_path), [subject])


def test_an_unknown_subject_is_refused() -> None:
    with pytest.raises(ValueError, match="'weather' is none of codec"):
        measure(HeldOut(), ["weather"])


@pytest.mark.parametrize(
    ("values", "message"),
    [({"clips": 0}, "clips must be at least 1, got 0"), ({"split": "all"}, "split must be one of train")],
)
def test_counts_and_splits_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeldOut(**values)  # type: ignore[arg-type]


def test_a_table_refuses_rows_that_do_not_fit_its_columns() -> None:
    with pytest.raises(ValueError, match="a row must have 2 cells, got 1"):
        FigureTable(subject="codec", title="t", counts={}, columns=("a", "b"), rows=((1,),))


def test_round_trip_of_an_untrained_codec_is_flat() -> None:
    from pipeline.world.codec import MotionCodec
    from pipeline.world.figures.codec import round_trip

    frames = round_trip(MotionCodec(), torch.rand(9, 16, 16, 3))
    assert frames.shape == (9, 16, 16, 3)
    assert float(frames.std()) == 0
