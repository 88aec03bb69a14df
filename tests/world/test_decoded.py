"""The second family of faults: sliding boxes in the examples, and the referee that learns from them."""

from __future__ import annotations

import pytest
import torch

from pipeline.world.cameras import MOVES
from pipeline.world.clips import world_prompts
from pipeline.world.codec import MotionCodec
from pipeline.world.referee import Referee
from pipeline.world.training.bank import decoded_batch, move_of
from pipeline.world.training.dataset import Examples, example_video, mirror_text
from pipeline.world.training.pretrain import CHECKPOINTS
from pipeline.world.training.referee import mirrored_moves


def encoded(count: int) -> tuple[MotionCodec, Examples]:
    """Clean and faulty versions of the same prompts, in turn."""
    codec = MotionCodec.from_pretrained(CHECKPOINTS / "generator-boxes" / "vae")
    prompts = [prompt for prompt in world_prompts("test", count) for _ in range(2)]
    faults = [None, "boxes"] * count
    videos = torch.stack([example_video(p, fault) for p, fault in zip(prompts, faults, strict=True)])
    motion = codec.encode(videos, return_dict=False)[0][:, :, 1]
    return codec, Examples(
        first_N3HW=videos[:, :, 0],
        motion_NChw=motion,
        texts=tuple(prompt.text for prompt in prompts),
        faulty_N=torch.tensor([fault is not None for fault in faults]),
    )


@pytest.fixture(scope="module")
def material() -> tuple[MotionCodec, Examples]:
    return encoded(6)


def test_a_fault_leaves_the_first_frame_alone_and_grows() -> None:
    prompt = world_prompts("test", 1)[0]
    clean, faulty = example_video(prompt, None), example_video(prompt, "boxes")
    change_T = (clean - faulty).abs().mean(dim=(0, 2, 3))
    assert change_T[0] == 0
    assert 0 < change_T[1] < change_T[4] < change_T[8]


def test_the_move_of_a_prompt_is_read_and_mirrored() -> None:
    for index, prompt in enumerate(world_prompts("test", len(MOVES))):
        assert move_of(prompt.text) == index
        assert move_of(mirror_text(prompt.text)) == mirrored_moves()[index]
    with pytest.raises(ValueError, match=r"text: must contain the phrase of a camera move, got 'A cat\.'"):
        move_of("A cat.")


def test_batches_depend_on_the_seed_alone_and_carry_both_labels(
    material: tuple[MotionCodec, Examples],
) -> None:
    first, again = (decoded_batch(*material, 16, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.frames_BTHW3, again.frames_BTHW3)
    assert first.frames_BTHW3.shape == (16, 9, 64, 64, 3)
    assert first.frames_BTHW3.min() >= 0
    assert first.frames_BTHW3.max() <= 1
    assert set(first.fault_B.tolist()) == {0.0, 1.0}


def test_the_shipped_referee_tells_sliding_boxes_of_unseen_scenes(
    material: tuple[MotionCodec, Examples],
) -> None:
    codec, examples = material
    latents = torch.stack([codec.encode_image(examples.first_N3HW), examples.motion_NChw], dim=2)
    frames = (codec.decode(latents, return_dict=False)[0].permute(0, 2, 3, 4, 1) / 2 + 0.5).clamp(0, 1)
    logits = Referee.from_pretrained(CHECKPOINTS / "referee-boxes").judge(frames).fault_B.view(-1, 2)
    assert bool((logits[:, 1] > logits[:, 0]).all())
