from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewards.errors import RewardError
from rewards.measures import backbones
from rewards.measures.backbones import BACKBONES
from rewards.measures.perceptual import load_perceptual


def test_none_is_no_term_and_ssim_needs_nothing() -> None:
    assert load_perceptual("none") is None
    ssim = load_perceptual("ssim")
    frames = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    assert ssim is not None
    assert ssim(frames, frames).tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert (ssim(frames, 1 - frames) > 0.5).all()


def test_unknown_terms_are_named() -> None:
    with pytest.raises(RewardError, match="'lpips' does not exist; choose one of: none, ssim, lpips-vgg"):
        load_perceptual("lpips")


def test_a_missing_backbone_names_the_file_and_its_source(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"nowhere\.pth is missing; fetch it with: .*/vgg16-397923af\.pth"):
        load_perceptual("lpips-vgg", weights=tmp_path / "nowhere.pth")


def test_the_hub_cache_is_where_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RewardError, match=f"{tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth is missing"):
        load_perceptual("lpips-alex")


def test_another_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vgg16-397923af.pth"
    path.write_bytes(b"not the published weights")
    with pytest.raises(RewardError, match=r"has SHA-256 .*, not 397923af"):
        load_perceptual("lpips-vgg", weights=path)


def test_lpips_runs_on_its_own_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real class and heads over a backbone of random weights: wiring, not the published values."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    path = tmp_path / "alex.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(BACKBONES, "lpips-alex", replace(BACKBONES["lpips-alex"], sha256=digest))
    distance = load_perceptual("lpips-alex", weights=path)
    frames = torch.rand(3, 64, 64, 3)
    assert distance is not None
    assert distance.name == "lpips-alex"
    assert distance(frames, frames).tolist() == [0.0] * 3
    assert (distance(frames, frames.flip(1)) > 0).all()


def test_lpips_is_the_published_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhang et al. 2018: unit-length features of five layers, squared differences, the package's heads."""
    torchvision = pytest.importorskip("torchvision")
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet(weights=None).eval()
    path = tmp_path / "alex.pth"
    torch.save(alexnet.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(BACKBONES, "lpips-alex", replace(BACKBONES["lpips-alex"], sha256=digest))
    distance = load_perceptual("lpips-alex", weights=path)
    heads = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).lins
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def features(image_HW3: torch.Tensor) -> list[torch.Tensor]:
        x = ((image_HW3 * 2 - 1 - shift) / scale).permute(2, 0, 1)[None]
        found = []
        for number, layer in enumerate(alexnet.features):
            x = layer(x)
            if number in (1, 4, 7, 9, 11):
                found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found

    first, second = torch.rand(2, 64, 64, 3)
    with torch.no_grad():
        expected = sum(
            float(torch.nn.functional.conv2d((a - b).square(), head.model[-1].weight).mean())
            for a, b, head in zip(features(first), features(second), heads, strict=True)
        )
    assert distance is not None
    assert float(distance(first[None], second[None])) == pytest.approx(expected, rel=1e-4)


def test_without_torch_the_cache_lies_where_torch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = BACKBONES["lpips-vgg"]
    for home, cache in ((None, None), ("/a", None), (None, "/b"), ("~/c", "/b")):
        for name, value in (("TORCH_HOME", home), ("XDG_CACHE_HOME", cache)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        said = backbones.cached(backbone)
        with monkeypatch.context() as without:
            without.delitem(sys.modules, "torch")
            assert backbones.cached(backbone) == said
