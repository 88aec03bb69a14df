"""The statistics of the held-out figures agree with values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from jobs.bench.world.chart import colour, write_chart
from jobs.bench.world.faults import separation, true_reconstruction
from jobs.bench.world.held_out import SUBJECTS, HeldOut, measure
from jobs.bench.world.ranking import agreement
from jobs.bench.world.study import CONTROL, DEFAULT, SAMPSON, Study, passes, ranks, spearman, win_rate
from jobs.figure_tables import FigureTable
from pipeline.world.clips import render_prompt, scene_ids, world_prompts
from pipeline.world.corruptions import corrupt
from pipeline.world.scenes import make_scene
from rewards.scoring import RewardResult
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
    errors = {"clean": [1.0, 2.0, math.nan], "warp@3": [3.0, 1.5, 9.0]}
    area, won, lost = separation(errors, "warp@3")
    # Of the four pairs, clean is ahead in 1 < 3, 1 < 1.5 and 2 < 3.
    assert (area, won, lost) == (0.75, 0.5, 1)
    assert separation({"clean": [math.nan], "warp@3": [1.0]}, "warp@3") == (None, None, 1)


class Nothing:
    name, model, revision, license = "nothing", "nothing", "1", "none"

    def reconstruct(self, frames_THW3: torch.Tensor) -> None:
        raise AssertionError("the study is given reconstructions")


def test_every_reward_explains_the_true_clip_better_than_a_warped_one() -> None:
    prompt = world_prompts("test", 3)[2]
    clip = render_prompt(prompt)
    warped = corrupt("warp", make_scene(prompt.scene_id), clip, 3.0, 1)
    study = Study(geometry=Nothing())
    clean, result = study.errors(
        true_reconstruction(clip.frames_THW3, clip), study.picture_errors(clip.frames_THW3)
    )
    faulty, _ = study.errors(true_reconstruction(warped, clip), study.picture_errors(warped))
    assert set(clean) == set(faulty) == set(study.names)
    assert clean[SAMPSON] == result.sampson
    assert clean[CONTROL] == result.image_motion
    assert result.value == -clean[DEFAULT]
    assert all(faulty[name] > 1.5 * clean[name] > 0 for name in study.rewards)
    # Of the strong warp too few matches are left. As published, with neighbours and a plain mean, wrong
    # matches rule the figure, and it misses the lesser warp as well.
    lesser = study.picture_errors(corrupt("warp", make_scene(prompt.scene_id), clip, 1.5, 1))
    assert math.isnan(faulty["epipolar"])
    assert lesser["epipolar"] > 1.5 * clean["epipolar"] > 0
    assert all(errors[name] > 0 for name in set(lesser) - {"epipolar"} for errors in (clean, lesser))


def test_guards_ask_for_a_value_and_for_known_measures() -> None:
    good = {"value": -0.1, "reason": None, "image_motion": 0.4, "sharpness": 0.9}
    guards = {"min_image_motion": 0.1, "min_sharpness": 0.8}
    assert passes(RewardResult(**good), guards)
    assert passes(RewardResult(**good), {})
    for change in ({"image_motion": 0.05}, {"sharpness": None}, {"value": None, "reason": "still"}):
        assert not passes(RewardResult(**good | change), guards)


def test_a_chart_shows_numbers_and_gaps(tmp_path: Path) -> None:
    from PIL import Image

    rows = (("good", 1.0, "x"), ("unknown", None, "y"))
    table = FigureTable(subject="faults", title="t", counts={"clips": 2}, columns=("a", "b", "c"), rows=rows)
    write_chart(tmp_path / "chart.png", [table], [("b",)])
    picture = Image.open(tmp_path / "chart.png").convert("RGB")
    found = {shade for _, shade in picture.getcolors(100_000) or []}
    assert colour(1.0) in found
    assert colour(0.0) not in found
    assert colour(0.5) == (244, 240, 228)
    with pytest.raises(ValueError, match="a chart needs at least one table"):
        write_chart(tmp_path / "none.png", [], [])


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
    from jobs.bench.world.networks import round_trip
    from pipeline.world.codec import MotionCodec

    frames = round_trip(MotionCodec(), torch.rand(9, 16, 16, 3))
    assert frames.shape == (9, 16, 16, 3)
    assert float(frames.std()) == 0
