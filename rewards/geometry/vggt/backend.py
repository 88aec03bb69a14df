"""VGGT as a geometry backend: where its weights are, their licence, and how they are read (safetensors only).

Shape legend: B clips, S frames, T frames of one clip, C colours, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryInfo, Reconstruction, check_frames
from rewards.geometry.vggt.heads import decode_cameras
from rewards.geometry.vggt.layers import VGGTConfig
from rewards.geometry.vggt.model import VGGT
from rewards.hub import cached_file, content_revision, read_json_object, recorded_name, require_same_tensors

_DEFAULT_MODEL = "facebook/VGGT-1B"
_LICENSES = {
    "facebook/VGGT-1B": "CC-BY-NC-4.0",
    "facebook/VGGT-1B-Commercial": "VGGT commercial licence (gated; allows commercial use under its terms)",
}
_GATED = ("facebook/VGGT-1B-Commercial",)
_UNKNOWN = "unknown"
_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class VGGTWeights:
    """Weights on disk. revision is the Hub's commit, or a hash of the file for a local folder."""

    model: str
    revision: str
    license: str
    weights: Path
    config: VGGTConfig


def _find_weights(model: str | None, revision: str | None) -> VGGTWeights:
    """Find weights in a local folder or in the Hub's cache; nothing is downloaded.

    Weights of several GB under a licence of their own are fetched by an explicit command, which the error
    names. Raises RewardError when they are missing or their config is not understood.
    """
    name = model or _DEFAULT_MODEL
    folder = Path(name)
    if folder.is_dir():
        return _local(folder)
    path = cached_file(name, revision, _WEIGHTS)
    if path is None:
        gated = "accept its terms on its page of the Hub, run `hf auth login`, then "
        raise RewardError(
            f"VGGT weights {name} are not on this machine (licence: {_LICENSES.get(name, _UNKNOWN)}); "
            f"{gated if name in _GATED else ''}fetch them with: hf download {name} {_WEIGHTS} {_CONFIG}"
            + (f" --revision {revision}" if revision else "")
        )
    config = cached_file(name, revision, _CONFIG)
    return VGGTWeights(
        model=name,
        revision=path.parent.name,
        license=_LICENSES.get(name, _UNKNOWN),
        weights=path,
        config=_read_config(config) if config else VGGTConfig(),
    )


def _local(folder: Path) -> VGGTWeights:
    path, config = folder / _WEIGHTS, folder / _CONFIG
    if not path.is_file():
        raise RewardError(f"{folder} has no {_WEIGHTS}; point --geometry-model at a folder with VGGT weights")
    revision = content_revision(path)
    raw = read_json_object(config) if config.is_file() else {}
    return VGGTWeights(
        model=recorded_name(folder),
        revision=revision,
        license=str(raw.get("license", _UNKNOWN)),
        weights=path,
        config=_read_config(config) if config.is_file() else VGGTConfig(),
    )


def _read_config(path: Path) -> VGGTConfig:
    """Known fields are taken; what says only which heads were enabled in training is not needed."""
    raw = read_json_object(path)
    known = {field.name for field in fields(VGGTConfig)}
    unknown = sorted(
        key for key in raw if key not in known and not key.startswith("enable_") and key != "license"
    )
    if unknown:
        raise RewardError(
            f"{path} has fields of another kind of model ({', '.join(unknown)}); it is not a VGGT"
        )
    values: dict[str, Any] = {
        key: tuple(raw[key]) if isinstance(raw[key], list) else raw[key] for key in raw if key in known
    }
    try:
        return VGGTConfig(**values)
    except (TypeError, ValueError) as error:
        raise RewardError(f"{path}: {error}; correct it or fetch it again") from error


def load_vggt(weights: VGGTWeights, device: str = "cpu") -> VGGT:
    """Build the model and read its weights, strictly; only the track head, which never runs, may be absent.

    Raises RewardError naming the file and the first names that differ.
    """
    try:
        with safe_open(weights.weights, framework="pt") as file:
            track = any(key.startswith("track_head.") for key in file.keys())  # noqa: SIM118 (not a dict)
        state = load_file(weights.weights, device=device)
    except SafetensorError as error:
        raise RewardError(
            f"{weights.weights} is not a readable safetensors file ({error}); fetch it again"
        ) from error
    with torch.device("meta"):
        model = VGGT(replace(weights.config, track=track))
    require_same_tensors(weights.weights, state, model.state_dict())
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


class VGGTBackend:
    """VGGT's depth and camera heads; its point maps are not used."""

    name = "vggt"

    def __init__(self, network: VGGT, weights: VGGTWeights) -> None:
        self.model, self.revision, self.license = weights.model, weights.revision, weights.license
        self._network = network

    def reconstruct(self, frames_THW3: Tensor) -> Reconstruction:
        """Reconstruct float frames in [0,1]."""
        return self.reconstruct_many([frames_THW3])[0]

    @torch.inference_mode()
    def reconstruct_many(self, clips: Sequence[Tensor]) -> list[Reconstruction]:
        """Reconstruct clips of equal shape in one forward pass, on the device of the weights."""
        for clip in clips:
            check_frames(clip)
        config, device = self._network.config, self._network.aggregator.camera_token.device
        images_BSCHW = torch.stack(
            [resize_frames(clip.to(device), config.img_size, config.patch_size) for clip in clips]
        )
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            output = self._network(images_BSCHW, heads=("camera", "depth"))
        return [_reconstruction(images_BSCHW, output, clip) for clip in range(len(clips))]


def _reconstruction(images_BSCHW: Tensor, output: dict[str, Tensor], clip: int) -> Reconstruction:
    height, width = images_BSCHW.shape[-2:]
    w2c_T34, intrinsics_T33 = decode_cameras(output["pose_enc"][clip], height, width)
    return Reconstruction(
        frames_THW3=images_BSCHW[clip].permute(0, 2, 3, 1).contiguous(),
        depth_THW=output["depth"][clip, ..., 0].contiguous(),
        confidence_THW=output["depth_conf"][clip].contiguous(),
        intrinsics_T33=intrinsics_T33,
        w2c_T34=w2c_T34,
    )


def resize_frames(frames_THW3: Tensor, width: int, multiple: int) -> Tensor:
    """Frames T,C,H,W at the given width, aspect ratio kept, height rounded to a multiple (half to even).

    Bicubic with antialiasing, clamped to [0,1]. Nothing is cropped.
    """
    old_height, old_width = frames_THW3.shape[1:3]
    height = max(1, round(old_height * width / old_width / multiple)) * multiple
    frames_TCHW = frames_THW3.permute(0, 3, 1, 2).float()
    resized = F.interpolate(frames_TCHW, size=(height, width), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def load_backend(*, model: str | None, revision: str | None, device: str) -> VGGTBackend:
    """Load VGGT from a local folder or the Hub's cache (default facebook/VGGT-1B)."""
    weights = _find_weights(model, revision)
    return VGGTBackend(load_vggt(weights, device), weights)


def describe(*, model: str | None, revision: str | None) -> GeometryInfo:
    """The weights that `load_backend` would load; raises RewardError when they are missing."""
    found = _find_weights(model, revision)
    return GeometryInfo(
        name=VGGTBackend.name, model=found.model, revision=found.revision, license=found.license
    )
