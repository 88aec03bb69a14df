"""A fundamental matrix from matches, against the true cameras of the embedded world and a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.world.clips import render_prompt, world_prompts
from rewards.matching.epipolar_geometry import (
    estimate_fundamental,
    fundamental_from_cameras,
    sampson_distance,
    weighted_eight_point,
)
from rewards.rasterise.zbuffer import backproject


def world_matches(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places of true points in the first and the last frame of a clip, and the true matrix with norm 1."""
    clip = render_prompt(world_prompts("test", 10)[number])
    points = backproject(clip.depth_THW, clip.intrinsics_T33, clip.w2c_T34)[0, 2::4, 2::4].reshape(-1, 3)
    seen = (points @ clip.w2c_T34[8, :, :3].T + clip.w2c_T34[8, :, 3]) @ clip.intrinsics_T33[8].T
    rows, columns = torch.meshgrid(torch.arange(2, 64, 4), torch.arange(2, 64, 4), indexing="ij")
    here = torch.stack([columns, rows], -1).reshape(-1, 2).double()
    true = fundamental_from_cameras(
        clip.w2c_T34[0], clip.w2c_T34[8], clip.intrinsics_T33[0], clip.intrinsics_T33[8]
    )
    return here, (seen[:, :2] / seen[:, 2:]).double(), true / true.norm()


@pytest.mark.parametrize("number", [0, 2, 8])
def test_true_matches_give_the_true_matrix_even_when_a_quarter_is_wrong(number: int) -> None:
    here, there, true = world_matches(number)
    generator = torch.Generator().manual_seed(number)
    wrong = torch.rand(len(here), generator=generator) < 0.25
    spoiled = torch.where(wrong[:, None], 64 * torch.rand(there.shape, generator=generator).double(), there)
    # The same lines: true matches are as far from them as they are from those of the true cameras.
    assert sampson_distance(true, here, there).max() < 0.01
    exact = estimate_fundamental(here, there, 0.25)
    assert exact is not None
    assert float(exact.norm()) == pytest.approx(1)
    assert sampson_distance(exact, here, there).max() < 0.02
    found = estimate_fundamental(here, spoiled, 0.25)
    assert found is not None
    # Wrong matches that happen to lie by a line pull at it a little.
    assert sampson_distance(found, here, there).median() < 0.2
    assert sampson_distance(found, here, spoiled)[wrong].median() > 1
    again = estimate_fundamental(here, spoiled, 0.25)
    assert again is not None
    assert torch.equal(found, again)


def test_eight_exact_matches_are_enough_and_fewer_are_not() -> None:
    here, there, _ = world_matches(0)
    chosen = torch.tensor([3, 40, 77, 100, 130, 170, 200, 250])
    found = weighted_eight_point(here[chosen], there[chosen])
    assert float(torch.linalg.det(found)) == pytest.approx(0, abs=1e-9)
    assert sampson_distance(found, here[chosen], there[chosen]).max() < 0.05
    assert estimate_fundamental(here[:7], there[:7], 1.0) is None


def test_matches_that_are_all_one_point_have_no_matrix_or_one_of_norm_one() -> None:
    same = torch.full((30, 2), 5.0)
    found = estimate_fundamental(same, same, 1.0)
    assert found is None or bool(found.isfinite().all())
