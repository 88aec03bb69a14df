"""The frame encoder of VGGT: a DINOv2 vision transformer with register tokens (arXiv 2304.07193, 2309.16588).

Shape legend: N frames, C colours, H, W pixels, h, w patches, P patches of a frame (h*w), R registers, D
width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.vggt.config import VGGTConfig
from rewards.vggt.layers import Block

_EPS = 1e-6  # DINOv2 normalises with 1e-6, the rest of VGGT with 1e-5


class PatchProjection(nn.Module):
    """A linear map of every patch."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Tokens N,P,D."""
        tokens: Tensor = self.proj(images_NCHW)
        return tokens.flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """DINOv2 that returns normalised patch tokens."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim, grid = config.embed_dim, config.img_size // config.patch_size
        self.patch_size = config.patch_size
        self.patch_embed = PatchProjection(config.patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + grid * grid, dim), std=0.02))
        self.register_tokens = nn.Parameter(1e-6 * torch.randn(1, config.num_register_tokens, dim))
        # Stands in for masked patches in DINOv2's own training; it is in the weights and never used here.
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(dim, config.backbone_heads, scale=1.0, eps=_EPS) for _ in range(config.backbone_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Patch tokens N,P,D of normalised images whose sides are multiples of the patch."""
        count, _, height, width = images_NCHW.shape
        positions_1QD = self._positions(height // self.patch_size, width // self.patch_size)
        patches_NPD = self.patch_embed(images_NCHW) + positions_1QD[:, 1:]
        first_N1D = (self.cls_token + positions_1QD[:, :1]).expand(count, -1, -1)
        x_NQD = torch.cat([first_N1D, self.register_tokens.expand(count, -1, -1), patches_NPD], dim=1)
        for block in self.blocks:
            x_NQD = block(x_NQD)
        tokens: Tensor = self.norm(x_NQD)
        return tokens[:, 1 + self.register_tokens.shape[1] :]

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The learned square of positions, resampled to the frame's grid."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if rows == columns == side:
            return self.pos_embed
        square = self.pos_embed[:, 1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(square, size=(rows, columns), mode="bicubic", antialias=True)
        resampled = grid.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], resampled], dim=1)
