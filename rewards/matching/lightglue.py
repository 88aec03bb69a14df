"""LightGlue (Lindenberger et al. 2023) with DISK or ALIKED features, through kornia. Nothing is downloaded.

Shape legend: H height, W width, N keypoints, D channels. Pixels are x, y with pixel centres at integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.errors import RewardError
from rewards.matching.matches import Matches, enlargement, in_pixels

_MOST = 2048  # keypoints of a frame
_LIGHTGLUE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/"


@dataclass(frozen=True, kw_only=True)
class _WeightFile:
    """A published file: its names (as published, and as kornia caches it) and where it comes from."""

    names: tuple[str, ...]
    url: str


# The features, then the matcher that was trained on them.
_FILES: dict[str, tuple[_WeightFile, _WeightFile]] = {
    "disk": (
        _WeightFile(
            names=("depth-save.pth",), url="https://huggingface.co/kornia/disk/resolve/main/depth-save.pth"
        ),
        _WeightFile(
            names=("disk_lightglue.pth", "disk_lightglue_v0-1_arxiv-pth"),
            url=f"{_LIGHTGLUE}disk_lightglue.pth",
        ),
    ),
    "aliked": (
        _WeightFile(
            names=("aliked-n16.pth",), url="https://huggingface.co/kornia/aliked/resolve/main/aliked-n16.pth"
        ),
        _WeightFile(
            names=("aliked_lightglue.pth", "aliked_lightglue_v0-1_arxiv-pth"),
            url=f"{_LIGHTGLUE}aliked_lightglue.pth",
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class LearnedFeatures:
    """Keypoints in pixels of the frame that was searched, descriptors, and that frame's size and factor."""

    points_N2: Tensor
    descriptors_ND: Tensor
    size: tuple[int, int]
    factor: int


class LightGlueMatcher:
    """Learned features and their matcher. version names the contents of both weight files."""

    def __init__(self, features: str, extractor: Any, glue: Any, version: str, device: str) -> None:
        self.name = f"lightglue-{features}"
        self.version = version
        self._extractor = extractor.to(device).eval()
        self._glue = glue.to(device).eval()
        self._device = torch.device(device)

    @torch.no_grad()
    def describe(self, frame_HW3: Tensor) -> LearnedFeatures:
        """Keypoints of a frame; one with a short side below 256 pixels is enlarged by a whole factor."""
        factor = enlargement(*frame_HW3.shape[:2])
        image_13HW = frame_HW3.permute(2, 0, 1)[None].float().to(self._device)
        if factor > 1:
            image_13HW = F.interpolate(image_13HW, scale_factor=factor, mode="bicubic").clamp(0, 1)
        height, width = image_13HW.shape[-2:]
        if self.name == "lightglue-disk":
            found = self._extractor(image_13HW, n=_MOST, pad_if_not_divisible=True)[0]
        else:
            found = self._extractor(image_13HW)[0]
        return LearnedFeatures(
            points_N2=found.keypoints.float(),
            descriptors_ND=found.descriptors.float(),
            size=(width, height),
            factor=factor,
        )

    @torch.no_grad()
    def match(self, first: LearnedFeatures, second: LearnedFeatures) -> Matches:
        """Matches between two frames."""
        index_M2 = torch.zeros(0, 2, dtype=torch.long)
        if min(len(first.points_N2), len(second.points_N2)) > 0:
            index_M2 = self._glue({"image0": _input(first), "image1": _input(second)})["matches"][0].cpu()
        here, there = first.points_N2.cpu()[index_M2[:, 0]], second.points_N2.cpu()[index_M2[:, 1]]
        return Matches(
            first_N2=in_pixels(here.numpy(), first.factor),
            second_N2=in_pixels(there.numpy(), second.factor),
            grain=1 / first.factor,
        )


def _input(one: LearnedFeatures) -> dict[str, Tensor]:
    return {
        "keypoints": one.points_N2[None],
        "descriptors": one.descriptors_ND[None],
        "image_size": torch.tensor([one.size], device=one.points_N2.device),
    }


def load_lightglue(features: str, *, weights: Path | None = None, device: str = "cpu") -> LightGlueMatcher:
    """LightGlue on "disk" or "aliked" features, with weights from a folder, or from torch's hub cache.

    Raises RewardError when kornia is not installed and when a file is missing or is not the published one.
    """
    feature = _require_kornia()
    folder = weights or Path(torch.hub.get_dir()) / "checkpoints"
    paths = [_find(folder, file) for file in _FILES[features]]
    states = [_read(path) for path in paths]
    if features == "disk":
        extractor, state = feature.DISK(), states[0].get("extractor", states[0])
    else:
        extractor = feature.ALIKED("aliked-n16", max_num_keypoints=_MOST)
        state = states[0]
    # Without early stopping and pruning: they save little on a few hundred points and depend on all of them.
    glue = feature.LightGlue(features=None, input_dim=128, depth_confidence=-1, width_confidence=-1)
    _fill(extractor, state, paths[0])
    _fill(glue, _renamed(states[1], len(glue.transformers)), paths[1])
    version = "-".join(hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in paths)
    return LightGlueMatcher(features, extractor, glue, version, device)


def _require_kornia() -> Any:
    try:
        from kornia import feature
    except ImportError as error:
        raise RewardError(
            "LightGlue needs the package kornia; install it with: "
            "pip install 'geometric-preference-alignment[lightglue]', or use --matcher sift"
        ) from error
    return feature


def _find(folder: Path, file: _WeightFile) -> Path:
    for name in file.names:
        if (folder / name).is_file():
            return folder / name
    path = folder / file.names[0]
    raise RewardError(
        f"weights {path} are missing; fetch them with: curl -L --create-dirs -o {path} {file.url}, "
        "or use --matcher sift"
    )


def _read(path: Path) -> dict[str, Any]:
    """The files are pickles: only tensors are read from them."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a foreign file raises is not of one kind
        raise RewardError(f"weights {path} cannot be read as tensors; fetch them again") from error
    return state


def _renamed(state: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The published file has its attention blocks in two lists, kornia in one of pairs."""
    renamed = {}
    for key, value in state.items():
        for layer in range(layers):
            for part in ("self_attn", "cross_attn"):
                if key.startswith(f"{part}.{layer}."):
                    key = key.replace(f"{part}.{layer}", f"transformers.{layer}.{part}", 1)
        renamed[key] = value
    return renamed


def _fill(module: Any, state: Mapping[str, Any], path: Path) -> None:
    """Whatever was learned must come from the file, which may hold more; computed buffers may be absent."""
    learned = {name for name, _ in module.named_parameters()}
    learned |= {name for name, _ in module.named_buffers() if "running_" in name}
    missing = sorted(learned - set(state))
    if missing:
        raise RewardError(
            f"weights {path} are not the published ones (no tensor {missing[0]}); fetch them again"
        )
    try:
        module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # a shape differs
        raise RewardError(
            f"weights {path} have other shapes than the published ones; fetch them again"
        ) from error
