"""Alternating attention inside frames and across the clip (VGGT, section 3.2).

Shape legend: B clips, S frames, C colours, H, W pixels, N tokens of a frame (camera, registers, patches), D
width.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from rewards.vggt.backbone import Backbone
from rewards.vggt.config import VGGTConfig
from rewards.vggt.layers import Block, rotary_grid

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Frame encoder, then `depth` pairs of a block that sees one frame and a block that sees the clip."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = Backbone(config)
        self.frame_blocks = nn.ModuleList(
            Block(dim, config.num_heads, qk_norm=True) for _ in range(config.depth)
        )
        self.global_blocks = nn.ModuleList(
            Block(dim, config.num_heads, qk_norm=True) for _ in range(config.depth)
        )
        # Two of each: one for the first frame, whose camera is the world, and one shared by the others.
        self.camera_token = nn.Parameter(1e-6 * torch.randn(1, 2, 1, dim))
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 2, config.num_register_tokens, dim))

    @property
    def num_special(self) -> int:
        """Tokens before the patches of a frame."""
        return 1 + self.config.num_register_tokens

    def forward(self, images_BSCHW: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        """Tokens B,S,N,2D (frame and global side by side) after the chosen pairs; others are not kept."""
        batch, frames, _, height, width = images_BSCHW.shape
        x_BSND = self._tokens(images_BSCHW)
        patch = self.config.patch_size
        rotary = rotary_grid(
            height // patch,
            width // patch,
            self.num_special,
            self.config.embed_dim // self.config.num_heads,
            self.config.rope_base,
            images_BSCHW.device,
        )
        rotary_clip = rotary.repeat(frames)
        kept: dict[int, Tensor] = {}
        for layer in range(max(layers) + 1):
            inside = self.frame_blocks[layer](x_BSND.flatten(0, 1), rotary).unflatten(0, (batch, frames))
            across = self.global_blocks[layer](inside.flatten(1, 2), rotary_clip)
            x_BSND = across.unflatten(1, (frames, -1))
            if layer in layers:
                kept[layer] = torch.cat([inside, x_BSND], dim=-1)
        return kept

    def _tokens(self, images_BSCHW: Tensor) -> Tensor:
        batch, frames = images_BSCHW.shape[:2]
        mean = images_BSCHW.new_tensor(_MEAN)[:, None, None]
        std = images_BSCHW.new_tensor(_STD)[:, None, None]
        patches = self.patch_embed(((images_BSCHW - mean) / std).flatten(0, 1)).unflatten(0, (batch, frames))
        special_12ND = torch.cat([self.camera_token, self.register_token], dim=2)
        which_S = (torch.arange(frames, device=images_BSCHW.device) > 0).long()
        special_BSND = special_12ND[:, which_S].expand(batch, -1, -1, -1)
        return torch.cat([special_BSND, patches], dim=2)
