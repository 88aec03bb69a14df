"""What the judge measures of a clip without a model."""

from __future__ import annotations

import pytest
import torch

from pipeline.judging import Judge, displacement
from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.corruptions import corrupt
from pipeline.world.flow import flow_to_first
from pipeline.world.scenes import make_scene


# An orbit uncovers much: there the flow back from later frames, which is what is known, is not the way forth.
@pytest.mark.parametrize(("number", "tolerance"), [(0, 0.15), (3, 0.15), (5, 0.15), (8, 0.3)])
def test_displacement_is_the_way_that_true_points_go(number: int, tolerance: float) -> None:
    clip = render_prompt(world_prompts("test", 10)[number])
    flow_THW2, _ = flow_to_first(clip)
    true = flow_THW2[1:].norm(dim=-1).flatten(1).median(dim=1).values.mean()
    assert displacement(clip.frames_THW3) == pytest.approx(float(true), rel=tolerance)


def test_a_still_clip_goes_nowhere_and_a_single_frame_has_no_way() -> None:
    frame = render_prompt(world_prompts("test", 1)[0]).frames_THW3[:1]
    assert displacement(frame.repeat(3, 1, 1, 1)) == pytest.approx(0, abs=1e-3)
    assert torch.tensor(displacement(frame)).isnan()


def test_the_referee_is_that_of_the_base_models_faults() -> None:
    prompts = world_prompts("test", 4)
    sliding, still = [], []
    for number, prompt in enumerate(prompts):
        clip = render_prompt(prompt)
        moved = corrupt("moving_boxes", make_scene(prompt.scene_id), clip, 0.6, number)
        judges = {name: Judge(model=name) for name in ("world", "world-boxes")}
        sliding.append({name: judge.measure(moved, prompt)["fault"] for name, judge in judges.items()})
        still.append(judges["world-boxes"].measure(clip.frames_THW3, prompt)["fault"])
    seen = sum(found["world-boxes"] for found in sliding) / 4
    assert seen > sum(still) / 4 + 0.3
    assert all(found["world"] != found["world-boxes"] for found in sliding)
