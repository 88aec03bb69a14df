"""Depth Anything 3 (arXiv 2511.10647) as a geometry backend, through the package depth-anything-3.

Only the package's network is imported, not its application, so that it needs neither xformers nor open3d nor
an old NumPy. Shape legend: B clips, S frames, T frames of one clip, C colours, H, W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.errors import RewardError
from rewards.geometry.depth_anything_weights import (
    NAME,
    DepthAnythingWeights,
    find_weights,
    require_package,
)
from rewards.geometry.reconstruction import Reconstruction, check_frames
from rewards.hub import require_same_tensors

_PREFIX = "model."  # the published files hold the network as an attribute of the package's API class
_LONG_SIDE = 504
_PATCH = 14
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DepthAnythingBackend:
    """Depth and cameras of one forward pass; the rays and Gaussians of the model are not used."""

    name = NAME

    def __init__(self, network: nn.Module, weights: DepthAnythingWeights) -> None:
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
        device = next(self._network.parameters()).device
        images_BSCHW = torch.stack([fit_frames(clip.to(device)) for clip in clips])
        mean_C11, std_C11 = (images_BSCHW.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            output = self._network((images_BSCHW - mean_C11) / std_C11)
        return [to_reconstruction(images_BSCHW[clip], output, clip) for clip in range(len(clips))]


def to_reconstruction(images_SCHW: Tensor, output: Any, clip: int) -> Reconstruction:
    """One clip of the network's output in our convention.

    The network's extrinsics are w2c (OpenCV), of 3 or 4 rows, its depth lies along z, and its intrinsics are
    in pixels of its input with the principal point at (W / 2, H / 2) for pixel centres at integers: its own
    unprojection uses whole coordinates. So only rows are cut and types made equal.
    """
    return Reconstruction(
        frames_THW3=images_SCHW.permute(0, 2, 3, 1).contiguous(),
        depth_THW=output["depth"][clip].float().contiguous(),
        confidence_THW=output["depth_conf"][clip].float().contiguous(),
        intrinsics_T33=output["intrinsics"][clip].float().contiguous(),
        w2c_T34=output["extrinsics"][clip][:, :3].float().contiguous(),
    )


def fit_frames(frames_THW3: Tensor) -> Tensor:
    """Frames T,C,H,W whose longer side is 504, both sides rounded to multiples of the patch; not cropped."""
    height, width = frames_THW3.shape[1:3]
    scale = _LONG_SIDE / max(height, width)
    sides = [max(1, round(side * scale / _PATCH)) * _PATCH for side in (height, width)]
    if 2 * min(height, width) * scale < _PATCH:
        raise RewardError(
            f"frames of {height}x{width} are too narrow for Depth Anything 3: crop them to less than 72:1"
        )
    frames_TCHW = frames_THW3.permute(0, 3, 1, 2).float()
    return F.interpolate(frames_TCHW, size=sides, mode="bicubic", antialias=True).clamp(0, 1)


def load_backend(*, model: str | None, revision: str | None, device: str) -> DepthAnythingBackend:
    """Load a model from a local folder or the Hub's cache (default depth-anything/DA3-BASE).

    Raises RewardError when the package or the weights are missing or do not fit.
    """
    require_package()
    weights = find_weights(model, revision)
    return DepthAnythingBackend(_load_network(weights, device), weights)


def build_network(architecture: str) -> nn.Module:
    """The package's network of that name without memory for its weights (meta tensors)."""
    from accelerate import init_empty_weights

    with warnings.catch_warnings():  # the package uses deprecated names of omegaconf and torch
        warnings.simplefilter("ignore")
        from depth_anything_3.cfg import create_object, load_config
        from depth_anything_3.registry import MODEL_REGISTRY
        from depth_anything_3.utils.logger import logger

        logger.level = 0  # it prints progress on stdout, where results go; errors remain
        with init_empty_weights():
            network: nn.Module = create_object(load_config(MODEL_REGISTRY[architecture]))
    return network


def _load_network(weights: DepthAnythingWeights, device: str = "cpu") -> nn.Module:
    """Build the network and read its weights, strictly. Raises RewardError naming what differs."""
    try:
        raw = load_file(weights.weights, device=device)
    except SafetensorError as error:
        raise RewardError(
            f"{weights.weights} is not a readable safetensors file ({error}); fetch it again"
        ) from error
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in raw.items()}
    network = build_network(weights.architecture)
    require_same_tensors(weights.weights, state, network.state_dict())
    network.load_state_dict(state, assign=True)
    return network.to(device).requires_grad_(False).eval()
