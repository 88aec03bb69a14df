"""Prompts: deterministic, split by scene, in a closed vocabulary."""

from __future__ import annotations

import pytest
import torch

from pipeline.world.clips import first_frame, render_prompt, split_words, vocabulary, world_prompts
from pipeline.world.scenes import make_scene
from storage.tables.ids import split_of


def test_splits_are_disjoint_and_agree_with_the_hash_of_the_scene() -> None:
    scenes = {split: {p.scene_id for p in world_prompts(split, 30)} for split in ("train", "val", "test")}
    assert not scenes["train"] & scenes["val"]
    assert not scenes["train"] & scenes["test"]
    assert not scenes["val"] & scenes["test"]
    assert all(split_of(scene) == split for split, found in scenes.items() for scene in found)


def test_prompts_are_deterministic_and_start_skips() -> None:
    assert world_prompts("test", 5, start=3) == world_prompts("test", 8)[3:]
    assert len({p.move for p in world_prompts("test", 10)}) == 10


def test_rendering_is_deterministic_and_begins_with_the_first_frame() -> None:
    prompt = world_prompts("val", 3)[2]
    one, two = render_prompt(prompt), render_prompt(prompt)
    assert torch.equal(one.frames_THW3, two.frames_THW3)
    assert torch.equal((one.frames_THW3[0] * 255).round().to(torch.uint8), first_frame(prompt))


def test_every_word_is_in_the_vocabulary_and_texts_differ() -> None:
    prompts = world_prompts("train", 60)
    words = set(vocabulary())
    assert all(set(split_words(p.text)) <= words for p in prompts)
    assert len({p.text for p in prompts}) > 40


def test_scenes_of_different_names_differ() -> None:
    assert not torch.equal(make_scene("a").textures_FCSS[:24], make_scene("b").textures_FCSS[:24])


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split: must be one of train, val, test, got 'dev'"):
        world_prompts("dev", 1)
