"""A small VGGT whose weights anyone can make again: drawn from a generator seeded by the tensor name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rewards.geometry.vggt.config import VGGTConfig

SMALL = VGGTConfig(
    img_size=56,
    embed_dim=64,
    num_heads=4,
    depth=4,
    backbone_depth=3,
    backbone_heads=4,
    camera_depth=2,
    camera_heads=4,
    dpt_features=32,
    dpt_channels=(16, 24, 32, 32),
    dpt_layers=(0, 1, 2, 3),
    track=False,
)


def seeded_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values of a size that keeps activations of a deep network near one."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    tensor = torch.from_numpy(values)
    if name.endswith("gamma"):
        return 0.3 + 0.1 * tensor
    if "token" in name.rsplit(".", 1)[-1] or "pos_embed" in name:
        return 0.5 * tensor
    if len(shape) > 1:
        return tensor / float(np.prod(shape[1:])) ** 0.5
    return (1 + 0.1 * tensor) if name.endswith("weight") else 0.1 * tensor


def seed_weights(module: torch.nn.Module) -> None:
    """Fill every tensor of the state dict, in place."""
    state: Mapping[str, Tensor] = module.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(seeded_tensor(name, tuple(tensor.shape)))


def seeded_images(batch: int, frames: int, height: int, width: int) -> Tensor:
    """Smooth pictures in [0,1] from sines, no random numbers."""
    index = torch.arange(batch * frames * 3, dtype=torch.float64).view(batch, frames, 3, 1, 1)
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)
    return (0.5 + 0.25 * torch.sin(0.31 * x + index) + 0.25 * torch.cos(0.23 * y - 2 * index)).float()
