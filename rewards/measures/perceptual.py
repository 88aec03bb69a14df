"""Perceptual distances between two clips: SSIM, which needs nothing, and LPIPS (Zhang et al. 2018).

Shape legend: T frames, H height, W width. Frames are float in [0,1]; distances are >= 0 and lower is closer.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from rewards.errors import RewardError
from rewards.measures.backbones import BACKBONES, Backbone, cached, require_file
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
    return _LpipsDistance(name, weights or cached(BACKBONES[name]), device)


def _build_lpips(backbone: Backbone, weights: Path) -> Any:
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


def _read_backbone(backbone: Backbone, path: Path) -> dict[str, Tensor]:
    """Torchvision has no safetensors: the file must be the published one; only tensors are read from it."""
    require_file(backbone, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(backbone.sha256):
        raise RewardError(
            f"LPIPS backbone {path} has SHA-256 {found[:8]}..., not {backbone.sha256}...; fetch it again"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
