"""The random control: deterministic, blind to the picture's quality, components kept."""

from __future__ import annotations

import torch
from torch import Tensor

from rewards.geometry.reconstruction import Reconstruction
from rewards.table import load_reward


class Wall:
    """A backend that sees every clip as a wall two units away, watched by a camera that stands still."""

    name, model, revision, license = "wall", "wall", "1", "none"

    def reconstruct(self, frames_THW3: Tensor) -> Reconstruction:
        count, height, width = frames_THW3.shape[:3]
        w2c = torch.eye(3, 4).repeat(count, 1, 1)
        intrinsics = torch.tensor([[32.0, 0, 15.5], [0, 32, 15.5], [0, 0, 1]]).repeat(count, 1, 1)
        depth = torch.full((count, height, width), 2.0)
        return Reconstruction(
            frames_THW3=frames_THW3,
            depth_THW=depth,
            confidence_THW=torch.ones_like(depth),
            intrinsics_T33=intrinsics,
            w2c_T34=w2c,
        )


def clips(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(4, 32, 32, 3, generator=generator) for _ in range(count)]


def test_values_repeat_and_spread_over_the_unit_interval() -> None:
    reward = load_reward("random", geometry=Wall())
    values = [result.value for result in reward.score_many(clips(64))]
    assert values == [result.value for result in reward.score_many(clips(64))]
    known = torch.tensor([value for value in values if value is not None])
    assert len(known) == 64
    assert -1 <= known.min() < -0.9
    assert -0.1 < known.max() < 0
    assert abs(float(known.mean()) + 0.5) < 0.15


def test_components_are_those_of_the_reprojection_reward() -> None:
    control = load_reward("random", geometry=Wall()).score(clips(1)[0])
    real = load_reward("reprojection", geometry=Wall()).score(clips(1)[0])
    assert control.mse == real.mse
    assert control.motion == real.motion
    assert control.value != real.value
