"""What VideoReward is shown, against transformers, torchvision and facts of the published code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision
from transformers import Qwen2VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from rewards.errors import RewardError
from rewards.videoreward.network import (
    Words,
    choose_frames,
    fit_size,
    prepare,
    refusal,
    resize,
    to_patches,
)
from rewards.videoreward.settings import REWARD_TOKENS, VideoRewardConfig
from tests.rewards.videoreward.tiny import PROMPT, SMALL, frames, write_base


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(write_base(tmp_path_factory.mktemp("words") / "base") / "tokenizer.json", PROMPT)


@pytest.mark.parametrize(
    ("count", "fps", "chosen"),
    [
        (13, 8.0, [0, 4, 8, 12]),
        (49, 8.0, [0, 4, 9, 13, 17, 22, 26, 31, 35, 39, 44, 48]),
        (40, 16.0, [0, 13, 26, 39]),  # 5 frames: the half rounds to 2 pairs
        (56, 16.0, [0, 8, 16, 24, 31, 39, 47, 55]),  # 7 frames: the half rounds to 4 pairs
        (5, 8.0, [0, 1, 3, 4]),
        (3, 8.0, [0, 2]),
    ],
)
def test_frames_are_two_a_second(count: int, fps: float, chosen: list[int]) -> None:
    assert choose_frames(count, fps, 2.0) == chosen


@given(count=st.integers(2, 5000), fps=st.floats(0.5, 120))
def test_chosen_frames_are_pairs_and_hold_both_ends(count: int, fps: float) -> None:
    chosen = choose_frames(count, fps, 2.0)
    assert len(chosen) % 2 == 0
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    assert chosen == sorted(set(chosen))
    assert min(4, count // 2 * 2) <= len(chosen) <= 768


@given(height=st.integers(8, 3000), width=st.integers(8, 3000))
def test_sizes_are_those_of_transformers(height: int, width: int) -> None:
    assume(max(height, width) <= 200 * min(height, width))
    expected = smart_resize(height, width, factor=28, min_pixels=128 * 28 * 28, max_pixels=200704)
    assert fit_size(height, width, 200704) == tuple(expected)


def test_resizing_is_that_of_torchvision_on_bytes() -> None:
    given_TCHW = frames(1).permute(0, 3, 1, 2)
    expected = vision.resize(given_TCHW, [364, 476], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize(given_TCHW, (364, 476)), expected.float())


def test_patches_are_those_of_transformers() -> None:
    shown = resize(frames(2)[:2].permute(0, 3, 1, 2), (252, 448))
    theirs = Qwen2VLVideoProcessor(do_resize=False)(
        [shown.byte()], do_sample_frames=False, cap_pixels_per_frame=False, return_tensors="pt"
    )
    patches, grid = to_patches(shown)
    assert list(grid) == theirs["video_grid_thw"][0].tolist()
    assert torch.allclose(patches, theirs["pixel_values_videos"], atol=1e-6)


def test_floats_are_looked_at_as_the_bytes_of_a_file(words: Words) -> None:
    config = VideoRewardConfig(
        fps=2,
        max_frame_pixels=200704,
        lora_rank=4,
        lora_alpha=8,
        output_dim=1,
        means=(0, 0, 0),
        stds=(1, 1, 1),
    )
    as_bytes = prepare(frames(0), 8.0, "a", config, words)
    as_floats = prepare(frames(0).float() / 255, 8.0, "a", config, words)
    assert torch.equal(as_bytes.patches_NP, as_floats.patches_NP)


def test_the_conversation_holds_every_piece_once(words: Words) -> None:
    assert words.size == SMALL.rows
    assert words.reward_ids == (264, 265, 266)
    ids = words.encode("a {curly} prompt", video_tokens=5).tolist()
    assert [token for token in ids if token in words.reward_ids] == list(words.reward_ids)
    first = ids.index(words.video_id)
    assert ids[first : first + 5] == [words.video_id] * 5
    assert ids.count(words.video_id) == 5
    # The prompt comes after the questions on visual and motion quality, before the one on the text.
    longer = words.encode("a {curly} prompt and more", video_tokens=5).tolist()
    same = ids.index(words.reward_ids[1])
    assert ids[: same + 1] == longer[: same + 1]
    assert ids != longer


def test_what_cannot_be_looked_at_has_a_reason(words: Words) -> None:
    clip = torch.zeros(4, 32, 32, 3)
    assert refusal(clip, "a red ball", words) is None
    assert "1 frame" in str(refusal(clip[:1], "", words))
    assert "200:1" in str(refusal(torch.zeros(4, 2, 402, 3), "", words))
    for token in ("<|video_pad|>", "<|im_end|>", REWARD_TOKENS[2]):
        assert token in str(refusal(clip, f"a ball {token}", words))


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write_base(tmp_path / "base") / "tokenizer.json"
    path.write_text(path.read_text().replace("<|video_pad|>", "<|film_pad|>"))
    with pytest.raises(
        RewardError, match=r"has no token <\|video_pad\|>; give the tokenizer.json of Qwen2-VL"
    ):
        Words(path, PROMPT)
    path.write_text("{")
    with pytest.raises(RewardError, match=r"is not a tokenizer \(.*\); fetch it again"):
        Words(path, PROMPT)
