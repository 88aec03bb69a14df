"""What the judge measures of a clip without a model."""

from __future__ import annotations

import pytest
import torch

from pipeline.judging import displacement
from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.flow import flow_to_first


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
