"""Layers of the world's geometry network: attention, a convolutional stem and a depth head.

Legend: B sequences or clips, N frames of all clips, L tokens, D width, C channels, H, W pixels, h, w cells.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CUES: Final = 8
_STEM: Final = 32


class Block(nn.Module):
    """Pre-norm self-attention and MLP over whatever sequence it is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Sequences [B, N, D] to the same shape."""
        batch, count, width = x_BND.shape
        qkv = self.qkv(self.norm1(x_BND)).view(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        x_BND = x_BND + self.proj(attended)
        mixed: Tensor = x_BND + self.fc2(F.gelu(self.fc1(self.norm2(x_BND))))
        return mixed


class Stem(nn.Module):
    """Pixels and cues to tokens; keeps the fine features that the depth head needs for sharp edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, _STEM, 5, 2, 2)
        self.middle = nn.Conv2d(_STEM, 2 * _STEM, 3, 2, 1)
        self.cue = nn.Conv2d(CUES, _STEM, 3, 1, 1)
        self.coarse = nn.Conv2d(3 * _STEM, width, 2, 2)

    def forward(self, images_NCHW: Tensor, cues_NChw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [N, L, D], features at half and at quarter resolution."""
        fine = F.gelu(self.fine(images_NCHW - 0.5))
        middle = torch.cat([F.gelu(self.middle(fine)), F.gelu(self.cue(cues_NChw))], 1)
        return self.coarse(middle).flatten(2).transpose(1, 2), fine, middle


class DepthHead(nn.Module):
    """Tokens to full resolution by pixel shuffle, joined by the stem's features on the way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * 32)
        self.skip_middle = nn.Conv2d(3 * _STEM, 32, 1)
        self.skip_fine = nn.Conv2d(_STEM, 16, 1)
        self.middle = nn.Conv2d(32 + 32, 4 * 16, 3, 1, 1)
        self.fine = nn.Conv2d(16 + 16, 4 * 8, 3, 1, 1)
        self.out = nn.Conv2d(8 + 3, 2, 3, 1, 1)

    def forward(
        self, tokens_NLD: Tensor, images: Tensor, fine: Tensor, middle: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Depth and confidence [N, H, W]; `fine` and `middle` come from the stem."""
        side_h, side_w = middle.shape[2] // 2, middle.shape[3] // 2
        grid = self.expand(self.norm(tokens_NLD)).transpose(1, 2).unflatten(2, (side_h, side_w))
        x = torch.cat([F.pixel_shuffle(grid, 2), self.skip_middle(middle)], 1)
        x = torch.cat([F.pixel_shuffle(F.gelu(self.middle(x)), 2), self.skip_fine(fine)], 1)
        x = torch.cat([F.pixel_shuffle(F.gelu(self.fine(x)), 2), images - 0.5], 1)
        log_depth, confidence = self.out(x).unbind(1)
        return log_depth.clamp(-3, 3).exp(), 1 + confidence.clamp(-6, 6).exp()
