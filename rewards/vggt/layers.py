"""The transformer block that every part of VGGT is made of.

Shape legend: B batch, N tokens, D width, h heads, d width of a head. Module names are those of the published
weights (norm1, attn.qkv, ls1.gamma, ...).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of the rotary angle of each token and channel, N,d."""

    cos_Nd: Tensor
    sin_Nd: Tensor

    def repeat(self, times: int) -> Rotary:
        """The same positions for several frames in one sequence."""
        return Rotary(self.cos_Nd.repeat(times, 1), self.sin_Nd.repeat(times, 1))

    def turn(self, x_BhNd: Tensor) -> Tensor:
        """Rotate queries or keys: the first half of the channels by the row, the second by the column."""
        row_a, row_b, column_a, column_b = x_BhNd.chunk(4, dim=-1)
        swapped_BhNd = torch.cat((-row_b, row_a, -column_b, column_a), dim=-1)
        return (x_BhNd * self.cos_Nd + swapped_BhNd * self.sin_Nd).to(x_BhNd.dtype)


def rotary_grid(
    rows: int, columns: int, special: int, head_dim: int, base: float, device: torch.device
) -> Rotary:
    """Angles of a frame's tokens: `special` tokens at position 0, then a grid whose positions start at 1."""
    row_N, column_N = torch.meshgrid(
        torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device), indexing="ij"
    )
    position_N2 = F.pad(torch.stack((row_N, column_N), dim=-1).view(-1, 2), (0, 0, special, 0)).float()
    half = head_dim // 2
    frequency_K = 1.0 / base ** (torch.arange(0, half, 2, device=device).float() / half)
    angle_N2K = position_N2[:, :, None] * frequency_K
    # Two channels turn by each angle, and they lie half of a half apart.
    angle_Nd = angle_N2K.repeat(1, 1, 2).flatten(1)
    return Rotary(angle_Nd.cos(), angle_Nd.sin())


class Attention(nn.Module):
    """Multi-head self-attention, optionally with normalised queries and keys and rotary positions."""

    def __init__(self, dim: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Attend over all N tokens."""
        q, k, v = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotary.turn(q), rotary.turn(k)
        mixed_BhNd = F.scaled_dot_product_attention(q, k, v)
        output: Tensor = self.proj(mixed_BhNd.transpose(1, 2).flatten(2))
        return output


class Mlp(nn.Module):
    """Two linear layers with a GELU."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        output: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return output


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with layer scale."""

    def __init__(
        self, dim: int, heads: int, *, qk_norm: bool = False, scale: float = 0.01, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm)
        self.ls1 = LayerScale(dim, scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim, dim)
        self.ls2 = LayerScale(dim, scale)

    def forward(self, x_BND: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Attention, then the MLP, each added to its input."""
        x_BND = x_BND + self.ls1(self.attn(self.norm1(x_BND), rotary))
        output: Tensor = x_BND + self.ls2(self.mlp(self.norm2(x_BND)))
        return output
