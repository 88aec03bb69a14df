"""Faults do what their names say, and keep the first frame."""

from __future__ import annotations

import pytest
import torch

from pipeline.world.cameras import camera_path
from pipeline.world.corruptions import (
    CORRUPTIONS,
    STRENGTHS,
    apply_field,
    compose_flow,
    corrupt,
    warp_field,
)
from pipeline.world.motion import flow_to_first
from pipeline.world.render import Clip, render
from pipeline.world.scenes import Scene, make_scene
from tests.world.test_render import warp_first


@pytest.fixture(scope="module")
def world() -> tuple[Scene, Clip]:
    scene = make_scene("world-000005")
    return scene, render(scene, camera_path(scene, "slide_left", 1))


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_first_frame_stays_and_later_frames_change_more_with_strength(
    world: tuple[Scene, Clip], name: str
) -> None:
    scene, clip = world
    changes = []
    for strength in STRENGTHS[name]:
        frames = corrupt(name, scene, clip, strength, 3)
        assert frames.shape == clip.frames_THW3.shape
        assert torch.allclose(frames[0], clip.frames_THW3[0], atol=1e-4)
        changes.append((frames[-1] - clip.frames_THW3[-1]).abs().mean().item())
    assert changes[0] > 0.002
    assert changes == sorted(changes)
    assert torch.equal(
        corrupt(name, scene, clip, STRENGTHS[name][0], 3), corrupt(name, scene, clip, STRENGTHS[name][0], 3)
    )


def test_frozen_has_no_motion_at_all(world: tuple[Scene, Clip]) -> None:
    frames = corrupt("frozen", *world, 1.0, 0)
    assert (frames - frames[:1]).abs().max() == 0


def test_warp_field_has_the_strength_asked_for_and_grows_in_proportion() -> None:
    field = warp_field(9, 64, 2.5, 7)
    lengths = field.square().sum(-1).mean((1, 2)).sqrt()
    assert torch.allclose(lengths, torch.linspace(0, 2.5, 9), atol=1e-4)
    # Smooth in space: neighbours differ by far less than the displacement.
    assert (field[-1, 1:] - field[-1, :-1]).norm(dim=-1).max() < 1.0


def test_composed_flow_reproduces_the_warped_clip(world: tuple[Scene, Clip]) -> None:
    _, clip = world
    field = warp_field(9, 64, 2.0, 1)
    faulty = apply_field(clip.frames_THW3, field)
    flow, _ = flow_to_first(clip)
    error = (warp_first(clip.frames_THW3, compose_flow(flow, field))[-1] - faulty[-1]).abs().mean(-1)
    plain = (warp_first(clip.frames_THW3, flow)[-1] - faulty[-1]).abs().mean(-1)
    assert error.median() < 0.25 * plain.median()


def test_blur_lowers_the_gradients(world: tuple[Scene, Clip]) -> None:
    scene, clip = world
    blurred = corrupt("blur", scene, clip, 2.0, 0)
    assert blurred[1:].diff(dim=2).abs().mean() < 0.6 * clip.frames_THW3[1:].diff(dim=2).abs().mean()


def test_unknown_corruption_is_refused(world: tuple[Scene, Clip]) -> None:
    with pytest.raises(ValueError, match=r"corruption: must be one of warp"):
        corrupt("melt", *world, 1.0, 0)
