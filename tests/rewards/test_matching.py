"""SIFT and LightGlue matches, in pixels of the frame."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.motion import flow_to_first
from rewards.errors import RewardError
from rewards.matching.matches import Matches
from rewards.matching.matching import load_matcher


def texture(shift: int) -> Tensor:
    """A window of 128 pixels into a wide picture, `shift` pixels to the right."""
    picture = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(picture, scale_factor=8, mode="bicubic").clamp(0, 1)[0]
    return wide.permute(1, 2, 0)[:, shift : shift + 128]


@pytest.mark.parametrize("mutual", [False, True])
def test_sift_finds_a_shift_in_pixels_of_the_frame(mutual: bool) -> None:
    matcher = load_matcher("sift", mutual=mutual)
    matches = matcher.match(matcher.describe(texture(0)), matcher.describe(texture(9)))
    assert len(matches) > 40
    assert matches.grain == 0.5  # a short side of 128 is enlarged twice
    moved = matches.second_N2 - matches.first_N2
    assert (moved - torch.tensor([-9.0, 0.0])).norm(dim=1).median() < 0.02


def test_sift_follows_the_true_motion_of_the_world_and_repeats_itself() -> None:
    clip = render_prompt(world_prompts("test", 1)[0])
    matcher = load_matcher("sift")
    first, second = (matcher.describe(clip.frames_THW3[t]) for t in (3, 0))
    matches, again = matcher.match(first, second), matcher.match(first, second)
    assert torch.equal(matches.first_N2, again.first_N2)
    assert torch.equal(matches.second_N2, again.second_N2)
    column, row = matches.first_N2.round().long().clamp(0, 63).unbind(1)
    true = matches.first_N2 + flow_to_first(clip)[0][3, row, column]
    assert len(matches) >= 20
    assert (matches.second_N2 - true).norm(dim=1).median() < 0.5


def test_flat_frames_have_no_matches() -> None:
    matcher = load_matcher("sift")
    flat = matcher.describe(torch.full((64, 64, 3), 0.5))
    assert len(matcher.match(flat, flat)) == 0


def test_shapes_of_matches_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must both have shape \(matches, 2\), got \(3, 2\) and \(2, 2\)"):
        Matches(first_N2=torch.zeros(3, 2), second_N2=torch.zeros(2, 2), grain=1.0)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        RewardError, match="matcher 'orb' does not exist; choose one of: sift, lightglue-disk"
    ):
        load_matcher("orb")
    pytest.importorskip("kornia")
    missing = r"weights .*depth-save\.pth are missing; fetch them with: curl -L .*, or use --matcher sift"
    with pytest.raises(RewardError, match=missing):
        load_matcher("lightglue-disk", weights=tmp_path)
    (tmp_path / "aliked-n16.pth").write_bytes(b"not a file of tensors")
    (tmp_path / "aliked_lightglue.pth").write_bytes(b"neither")
    with pytest.raises(RewardError, match=r"aliked-n16\.pth cannot be read as tensors"):
        load_matcher("lightglue-aliked", weights=tmp_path)
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(RewardError, match="LightGlue needs the package kornia; install it with: pip install"):
        load_matcher("lightglue-disk", weights=tmp_path)


@pytest.mark.parametrize("features", ["disk", "aliked"])
def test_lightglue_runs_on_files_in_the_published_layout(features: str, tmp_path: Path) -> None:
    """Random weights: layout, loading and pixels are tested, not quality."""
    kornia = pytest.importorskip("kornia")
    torch.manual_seed(0)
    glue = kornia.feature.LightGlue(features=None, input_dim=128).state_dict()
    published = {}
    for key, value in glue.items():
        parts = key.split(".")
        if parts[0] == "transformers":
            key = ".".join([parts[2], parts[1], *parts[3:]])
        published[key] = value
    torch.save(published, tmp_path / f"{features}_lightglue.pth")
    if features == "disk":
        torch.save({"extractor": kornia.feature.DISK().state_dict()}, tmp_path / "depth-save.pth")
    else:
        torch.save(kornia.feature.ALIKED("aliked-n16").state_dict(), tmp_path / "aliked-n16.pth")
    matcher = load_matcher(f"lightglue-{features}", weights=tmp_path)
    described = [matcher.describe(texture(shift)[:64, :64]) for shift in (0, 3)]
    matches = matcher.match(*described)
    assert matches.grain == 0.25
    for places in (matches.first_N2, matches.second_N2, described[0].points_N2 / 4):
        assert bool(((places >= -0.5) & (places <= 63.5)).all())
    assert len(matcher.version.split("-")) == 2
    published.pop(next(key for key in published if key.startswith("self_attn.")))
    torch.save(published, tmp_path / f"{features}_lightglue.pth")
    with pytest.raises(RewardError, match=r"are not the published ones \(no tensor transformers"):
        load_matcher(f"lightglue-{features}", weights=tmp_path)
