"""The referee: its matching, its labels, and the shipped weights on scenes it never saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from jobs.bench.world.networks import area_under_curve
from pipeline.world.cameras import MOVES
from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.corruptions import apply_field, compose_flow, warp_field
from pipeline.world.motion import flow_to_first
from pipeline.world.referee import Referee, RefereeConfig, block_match, referee_inputs
from pipeline.world.training.bank import ClipBank, coarse_flow, render_bank
from pipeline.world.training.referee import (
    RefereeTraining,
    coarse_faulty_flow,
    growing_fields,
    labelled_clips,
    mirrored_moves,
)
from storage.errors import UserError


@pytest.fixture(scope="module")
def bank() -> ClipBank:
    return render_bank("test", 30, start=150)


def test_block_match_finds_a_shift_with_sub_pixel_precision() -> None:
    coarse = torch.rand(1, 3, 14, 18, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, size=(64, 80), mode="bicubic").clamp(0, 1)
    # Five pixels to the right before halving.
    earlier, later = F.avg_pool2d(image[..., 5:69], 2), F.avg_pool2d(image[..., 10:74], 2)
    flow, cost = block_match(later, earlier, 5)
    inner = flow[0, :, 6:-6, 8:-8]
    assert (inner[0] - 2.5).abs().median() < 0.15
    assert inner[1].abs().median() < 0.15
    assert cost.shape == (1, 1, 32, 32)


def test_mirrored_moves_swap_left_and_right_only() -> None:
    names = [move.name for move in MOVES]
    for index, other in enumerate(mirrored_moves().tolist()):
        expected = names[index].replace("left", "*").replace("right", "left").replace("*", "right")
        assert names[other] == expected


def test_coarse_faulty_flow_agrees_with_the_dense_composition() -> None:
    clip = render_prompt(world_prompts("val", 1)[0])
    flow, _ = flow_to_first(clip)
    field = warp_field(9, 64, 3.0, 5)
    dense = coarse_flow(compose_flow(flow, field))
    coarse = coarse_faulty_flow(coarse_flow(flow)[None], field[None])[0]
    assert (dense - coarse).norm(dim=1)[-1].median() < 0.2
    assert (dense - coarse_flow(flow)).norm(dim=1)[-1].median() > 1.0


def test_labels_are_balanced_and_faulty_clips_differ_from_the_truth(bank: ClipBank) -> None:
    training = RefereeTraining(rewarp_share=0.0)
    clips = labelled_clips(bank, training, torch.Generator().manual_seed(0))
    assert 0.2 < clips.fault_B.mean() < 0.8
    change = (clips.frames_BTHW3[:, -1] - bank.frames_NTHW3[:, -1].float() / 255).abs().mean((1, 2, 3))
    assert change[clips.fault_B > 0].mean() > 1.3 * change[clips.fault_B == 0].mean()


def test_growing_fields_stay_between_the_strengths() -> None:
    fields = growing_fields(6, 9, 64, 1.0, 2.0, torch.Generator().manual_seed(1))
    lengths = fields[:, -1].square().sum(-1).mean((1, 2)).sqrt()
    assert (lengths >= 1.0 - 1e-4).all()
    assert (lengths <= 2.0 + 1e-4).all()
    assert fields[:, 0].abs().max() == 0


def test_area_under_curve_counts_pairs() -> None:
    assert area_under_curve(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])) == pytest.approx(3.5 / 4)


def test_shipped_weights_tell_faulty_from_clean_and_read_the_move(bank: ClipBank) -> None:
    referee = Referee.from_pretrained()
    clean = bank.frames_NTHW3.float() / 255
    warped = torch.stack([apply_field(clip, warp_field(9, 64, 3.0, seed)) for seed, clip in enumerate(clean)])
    verdict, faulty = referee.judge(clean), referee.judge(warped)
    assert area_under_curve(faulty.fault_B, verdict.fault_B) >= 0.97
    assert (verdict.moves_BM.argmax(1) == bank.move_N).float().mean() >= 0.85
    assert verdict.probability_B.mean() < 0.2
    assert faulty.probability_B.mean() > 0.8


def test_bad_input_is_refused_with_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"referee weights in .* cannot be read .* run `gpa pretrain-world`"):
        Referee.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"referee: clips must have 9 frames, got 5"):
        referee_inputs(torch.rand(1, 5, 64, 64, 3))
    with pytest.raises(ValueError, match=r"RefereeTraining.weakest: must lie in"):
        RefereeTraining(weakest=9.0)
    with pytest.raises(ValueError, match=r"RefereeConfig.width: must be at least 1, got 0"):
        RefereeConfig(width=0)
