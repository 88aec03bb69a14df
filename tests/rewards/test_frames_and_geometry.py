from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rewards.errors import RewardError
from rewards.geometry.backends import load_backend
from rewards.geometry.reconstruction import Reconstruction, reconstruct_many, select_frames


def reconstruction(frames: int = 2) -> Reconstruction:
    return Reconstruction(
        frames_THW3=torch.rand(frames, 4, 5, 3),
        depth_THW=torch.ones(frames, 4, 5),
        confidence_THW=torch.ones(frames, 4, 5),
        intrinsics_T33=torch.eye(3).repeat(frames, 1, 1),
        w2c_T34=torch.eye(4)[:3].repeat(frames, 1, 1),
    )


@pytest.mark.parametrize("num_frames", [10, 11, 49, 81, 97, 121])
def test_selection_is_the_truncated_linspace(num_frames: int) -> None:
    exact = np.linspace(0, num_frames - 1, 10)
    # A value that is whole but for rounding belongs to that whole number.
    assert select_frames(num_frames, 10) == [int(value + 1e-9) for value in exact]


def test_selection_keeps_every_frame_of_a_short_clip() -> None:
    assert select_frames(9, 10) == list(range(9))
    assert select_frames(0, 10) == []


def test_selection_refuses_a_single_frame() -> None:
    with pytest.raises(ValueError, match="count must be >= 2"):
        select_frames(9, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth_THW", torch.ones(4, 5), "depth_THW must have 3 dimensions"),
        ("intrinsics_T33", torch.eye(3), "intrinsics_T33 must have shape"),
        ("w2c_T34", torch.eye(4).repeat(2, 1, 1), "w2c_T34 must have shape"),
        ("confidence_THW", torch.ones(2, 4, 5, dtype=torch.float64), "confidence_THW must be float32"),
        ("frames_THW3", torch.full((2, 4, 5, 3), 1.5), "frames_THW3 must lie in"),
        ("frames_THW3", torch.full((2, 4, 5, 3), float("nan")), "frames_THW3 must lie in"),
    ],
)
def test_reconstruction_refuses(field: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(reconstruction(), **{field: value})


class Plain:
    name, model, revision, license = "plain", "m", "r", "none"

    def reconstruct(self, frames_THW3: torch.Tensor) -> Reconstruction:
        return reconstruction(frames_THW3.shape[0])


class Batched(Plain):
    calls = 0

    def reconstruct_many(self, clips: list[torch.Tensor]) -> list[Reconstruction]:
        self.calls += 1
        return [self.reconstruct(clip) for clip in clips]


def test_many_clips_go_in_one_call_where_shapes_agree() -> None:
    same = [torch.rand(3, 4, 5, 3)] * 2
    batched = Batched()
    assert [item.num_frames for item in reconstruct_many(batched, same)] == [3, 3]
    assert batched.calls == 1
    assert [item.num_frames for item in reconstruct_many(batched, [same[0], same[0][:2]])] == [3, 2]
    assert batched.calls == 1
    assert len(reconstruct_many(Plain(), same)) == 2


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(
        RewardError, match="'nerf' does not exist; choose one of: world, world-judge, vggt, depth-anything"
    ):
        load_backend("nerf", model=None, revision=None, device="cpu")
