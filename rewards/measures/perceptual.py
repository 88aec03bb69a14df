"""Perceptual distances between two clips: SSIM, which needs nothing, and LPIPS (Zhang et al. 2018).

Shape legend: T frames, H height, W width. Frames are float in [0,1]; distances are >= 0 and lower is closer.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from rewards.errors import RewardError
from rewards.measures.quality import ssim
from rewards.options import PerceptualName

_PERCEPTUAL = get_args(PerceptualName)


class Perceptual(Protocol):
    """A distance between two clips of equal shape."""

    name: str

    def __call__(self, images_THW3: Tensor, frames_THW3: Tensor) -> Tensor:
        """Distance per frame, T."""
        ...


class SsimDistance:
    """1 - SSIM."""

    name = "ssim"

    def __call__(self, images_THW3: Tensor, frames_THW3: Tensor) -> Tensor:
        """Distance per frame, T."""
        return 1.0 - ssim(images_THW3, frames_THW3)


@dataclass(frozen=True, kw_only=True)
class _Backbone:
    """The ImageNet network below LPIPS: torchvision's file, and the start of its SHA-256."""

    net: str
    file: str
    sha256: str


BACKBONES = {
    "lpips-vgg": _Backbone(net="vgg", file="vgg16-397923af.pth", sha256="397923af"),
    "lpips-alex": _Backbone(net="alex", file="alexnet-owt-7be5be79.pth", sha256="7be5be79"),
}


class _LpipsDistance:
    """LPIPS with the heads of the installed package lpips and torchvision's ImageNet backbone."""

    def __init__(self, name: str, weights: Path, device: str = "cpu") -> None:
        self.name = name
        self._network = _build_lpips(BACKBONES[name], weights).to(device)

    @torch.no_grad()
    def __call__(self, images_THW3: Tensor, frames_THW3: Tensor) -> Tensor:
        """Distance per frame, T. Frames go through one by one: the first layers of VGG are large."""
        pairs = zip(images_THW3.permute(0, 3, 1, 2), frames_THW3.permute(0, 3, 1, 2), strict=True)
        distances = [self._network(a[None], b[None], normalize=True).reshape(()) for a, b in pairs]
        return torch.stack(distances)


def load_perceptual(name: str, *, weights: Path | None = None, device: str = "cpu") -> Perceptual | None:
    """The perceptual term by name; None for "none".

    weights: torchvision's backbone file; by default it is looked for in torch's hub cache. Nothing is
    downloaded. Raises RewardError for an unknown name and for a backbone that is absent or is not the
    published file.
    """
    if name == "none":
        return None
    if name == "ssim":
        return SsimDistance()
    if name not in BACKBONES:
        raise RewardError(f"perceptual term '{name}' does not exist; choose one of: {', '.join(_PERCEPTUAL)}")
    return _LpipsDistance(name, weights or _cached(BACKBONES[name]), device)


def require_backbone(name: str, weights: Path | None = None) -> None:
    """Raise RewardError when the term `name` needs a file that is not there; nothing is read of it."""
    if name in BACKBONES:
        _require_file(BACKBONES[name], weights or _cached(BACKBONES[name]))


def _cached(backbone: _Backbone) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / backbone.file


def _build_lpips(backbone: _Backbone, weights: Path) -> Any:
    state = _read_backbone(backbone, weights)
    try:
        import lpips
    except ImportError as error:
        raise RewardError("LPIPS needs the package lpips; install it with: pip install lpips") from error
    with warnings.catch_warnings():  # lpips passes torchvision's old argument names
        warnings.simplefilter("ignore")
        # The heads are files of the installed package, which reads them with torch's default, tensors only.
        network = lpips.LPIPS(net=backbone.net, pnet_rand=True, verbose=False)
    for part in network.net.children():
        part.load_state_dict({key: state[f"features.{key}"] for key in part.state_dict()})
    return network.requires_grad_(False).eval()


def _require_file(backbone: _Backbone, path: Path) -> None:
    if not path.is_file():
        raise RewardError(
            f"LPIPS backbone {path} is missing; fetch it with: curl -L --create-dirs -o {path} "
            f"https://download.pytorch.org/models/{backbone.file}, or use --perceptual ssim or none"
        )


def _read_backbone(backbone: _Backbone, path: Path) -> dict[str, Tensor]:
    """Torchvision has no safetensors: the file must be the published one; only tensors are read from it."""
    _require_file(backbone, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(backbone.sha256):
        raise RewardError(
            f"LPIPS backbone {path} has SHA-256 {found[:8]}..., not {backbone.sha256}...; fetch it again"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
