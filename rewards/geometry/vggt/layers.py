"""Layers of VGGT and its frame encoder (DINOv2), and alternating attention over a clip (section 3.2).

Module names are those of the published weights (norm1, attn.qkv, ls1.gamma, ...). Shape legend: B clips (in
a block: any batch), S frames of a clip, N tokens (of a frame: camera, registers, patches; in the encoder:
frames), D width, h heads (of patches: rows), d width of a head, C colours, H, W pixels, w columns of patches,
P patches of a frame (h*w), R registers.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.geometry.vggt.config import VGGTConfig


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


def _rotary_grid(
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


class _Attention(nn.Module):
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


class _LayerScale(nn.Module):
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
        self.attn = _Attention(dim, heads, qk_norm)
        self.ls1 = _LayerScale(dim, scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim, dim)
        self.ls2 = _LayerScale(dim, scale)

    def forward(self, x_BND: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Attention, then the MLP, each added to its input."""
        x_BND = x_BND + self.ls1(self.attn(self.norm1(x_BND), rotary))
        output: Tensor = x_BND + self.ls2(self.mlp(self.norm2(x_BND)))
        return output


_EPS = 1e-6  # DINOv2 normalises with 1e-6, the rest of VGGT with 1e-5


class _PatchProjection(nn.Module):
    """A linear map of every patch."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Tokens N,P,D."""
        tokens: Tensor = self.proj(images_NCHW)
        return tokens.flatten(2).transpose(1, 2)


class _Backbone(nn.Module):
    """DINOv2 that returns normalised patch tokens."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim, grid = config.embed_dim, config.img_size // config.patch_size
        self.patch_size = config.patch_size
        self.patch_embed = _PatchProjection(config.patch_size, dim)
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


_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Frame encoder, then `depth` pairs of a block that sees one frame and a block that sees the clip."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = _Backbone(config)
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
        rotary = _rotary_grid(
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
