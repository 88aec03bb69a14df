"""VGGT as a geometry backend: how its weights are read (safetensors only), and what it makes of frames.

Shape legend: B clips, S frames, T frames of one clip, C colours, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from rewards.errors import RewardError
from rewards.geometry.reconstruction import Reconstruction, check_frames
from rewards.geometry.vggt.heads import decode_cameras
from rewards.geometry.vggt.model import VGGT
from rewards.geometry.vggt.weights import NAME, VGGTWeights, find_weights
from rewards.hub import require_same_tensors


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

    name = NAME

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
    weights = find_weights(model, revision)
    return VGGTBackend(load_vggt(weights, device), weights)
