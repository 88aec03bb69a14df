"""The ImageNet networks below LPIPS: which files they are, and where they lie. Nothing here imports torch."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rewards.errors import RewardError


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The ImageNet network below LPIPS: torchvision's file, and the start of its SHA-256."""

    net: str
    file: str
    sha256: str


BACKBONES = {
    "lpips-vgg": Backbone(net="vgg", file="vgg16-397923af.pth", sha256="397923af"),
    "lpips-alex": Backbone(net="alex", file="alexnet-owt-7be5be79.pth", sha256="7be5be79"),
}


def require_backbone(name: str, weights: Path | None = None) -> None:
    """Raise RewardError when the term `name` needs a file that is not there; nothing is read of it."""
    if name in BACKBONES:
        require_file(BACKBONES[name], weights or cached(BACKBONES[name]))
    elif weights is not None and not weights.is_file():
        raise RewardError(f"--perceptual-weights {weights} is no file: correct it, or leave it out")


def cached(backbone: Backbone) -> Path:
    """Where torch's hub cache has the file, or would have it."""
    hub = getattr(sys.modules.get("torch"), "hub", None)
    # Where torch.hub.get_dir() is, unless a program has moved it.
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    folder = Path(home).expanduser() / "hub" if hub is None else Path(hub.get_dir())
    return folder / "checkpoints" / backbone.file


def require_file(backbone: Backbone, path: Path) -> None:
    """Raise RewardError, with the command that fetches it, when the file is not there."""
    if not path.is_file():
        raise RewardError(
            f"LPIPS backbone {path} is missing; fetch it with: curl -L --create-dirs -o {path} "
            f"https://download.pytorch.org/models/{backbone.file}, or use --perceptual ssim or none"
        )
