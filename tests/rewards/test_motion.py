from __future__ import annotations

import math

import pytest
import torch

from rewards.measures.quality import camera_centres, camera_motion, rotation_angles


def turn(angle: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)


def cameras(angle: float, step: float, frames: int = 5, start: float = 10.0) -> torch.Tensor:
    """Cameras on a line far from the origin, each turned by `angle` more, given as w2c."""
    w2c = []
    for t in range(frames):
        rotation = turn(angle * t)
        centre = torch.tensor([start + step * t, 0.0, 0.0], dtype=torch.float64)
        w2c.append(torch.cat([rotation, -(rotation @ centre)[:, None]], dim=1))
    return torch.stack(w2c).float()


DEPTH = torch.full((5, 3, 4), 2.0)


def test_centres_come_back() -> None:
    assert torch.allclose(camera_centres(cameras(0.3, 1.0))[:, 0], 10 + torch.arange(5.0), atol=1e-4)


def test_translation_counts_in_units_of_depth() -> None:
    assert camera_motion(cameras(0.0, 0.5), DEPTH) == pytest.approx(0.25, rel=1e-5)


def test_rotation_counts_a_tenth_of_its_angle_and_no_translation() -> None:
    assert camera_motion(cameras(0.2, 0.0), DEPTH) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 1e-2, 1.0, 3.1])
def test_angles_are_exact_also_when_tiny(angle: float) -> None:
    assert torch.allclose(rotation_angles(cameras(angle, 0.0)), torch.tensor(angle), rtol=1e-3, atol=1e-6)


def test_the_unit_of_length_does_not_matter() -> None:
    w2c = cameras(0.1, 0.3)
    scaled = w2c.clone()
    scaled[:, :, 3] *= 7
    assert camera_motion(scaled, 7 * DEPTH) == pytest.approx(camera_motion(w2c, DEPTH), rel=1e-4)


def test_still_and_single_cameras_do_not_move() -> None:
    assert camera_motion(cameras(0.0, 0.0), DEPTH) == 0.0
    assert camera_motion(cameras(0.1, 1.0, frames=1), DEPTH[:1]) == 0.0


def test_without_depth_there_is_no_unit() -> None:
    assert math.isnan(camera_motion(cameras(0.1, 1.0), torch.full((5, 3, 4), float("nan"))))
