"""The world's geometry network: alternating frame and global attention with an explicit matching cue.

Legend: B sequences or clips, N frames of all clips, L tokens, D width, C channels, H, W pixels, h, w cells.

Attention and outputs follow VGGT (arXiv 2503.11651): nine numbers of pose a frame (translation, quaternion
x y z w, vertical and horizontal field of view), depth and confidence. What differs is the cue: plain
attention takes far longer than a CPU has to learn rotation, so motion relative to frame 0 is measured and
given to the tokens and to the camera head.
Legend: B clips, T frames, H, W pixels, h, w cells of 4x4 pixels, N tokens a frame, D width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.geometry.world.matching import CELL, Matches, match_to_first
from rewards.hub import load_checkpoint, save_checkpoint

_CUES: Final = 8
_STEM: Final = 32


class _Block(nn.Module):
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


class _Stem(nn.Module):
    """Pixels and cues to tokens; keeps the fine features that the depth head needs for sharp edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, _STEM, 5, 2, 2)
        self.middle = nn.Conv2d(_STEM, 2 * _STEM, 3, 2, 1)
        self.cue = nn.Conv2d(_CUES, _STEM, 3, 1, 1)
        self.coarse = nn.Conv2d(3 * _STEM, width, 2, 2)

    def forward(self, images_NCHW: Tensor, cues_NChw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [N, L, D], features at half and at quarter resolution."""
        fine = F.gelu(self.fine(images_NCHW - 0.5))
        middle = torch.cat([F.gelu(self.middle(fine)), F.gelu(self.cue(cues_NChw))], 1)
        return self.coarse(middle).flatten(2).transpose(1, 2), fine, middle


class _DepthHead(nn.Module):
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


@dataclass(frozen=True, kw_only=True)
class WorldGeometryConfig:
    """Size of the network; `image_size` is the side in pixels that it was trained at."""

    image_size: int = 64
    patch_size: int = 8
    max_frames: int = 16
    width: int = 128
    heads: int = 4
    layers: int = 3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"WorldGeometryConfig.{name}: must be a positive integer, got {value!r}")
        if self.patch_size != 2 * CELL or self.image_size % self.patch_size:
            raise ValueError(
                f"WorldGeometryConfig.patch_size: must be {2 * CELL} and divide image_size, got "
                f"{self.patch_size} and {self.image_size}; use patch_size {2 * CELL}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"WorldGeometryConfig.width: must be divisible by heads {self.heads}, got {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class GeometryPrediction:
    """Outputs of the network; lengths are in units of the mean depth of frame 0, frame 0 is the world frame.

    pose_encoding [B, T, 9]; depth and confidence [B, T, H, W]; confidence is at least 1, higher is surer.
    """

    pose_encoding_BT9: Tensor
    depth_BTHW: Tensor
    confidence_BTHW: Tensor


def _cue_channels(matches: Matches, times_T: Tensor) -> Tensor:
    """Scaled cues [B, T, 8, h, w]: motion, motion a frame, deviation from the mean, error, texture."""
    flow = matches.flow_BT2hw
    steps = times_T.clamp_min(1).view(1, -1, 1, 1, 1)
    deviation = flow - flow.mean((3, 4), keepdim=True)
    error = 10 * matches.residual_BThw.clamp_min(0).sqrt()
    texture = 0.3 * (matches.texture_BThw + 1e-5).log() + 2.0
    scalars = torch.stack([error, texture], 2)
    return torch.cat([flow / 4, 1.5 * flow / steps, deviation / 2, scalars], 2)


class WorldGeometry(nn.Module):
    """Depth and cameras of a short clip; see `GeometryPrediction` for units."""

    def __init__(self, config: WorldGeometryConfig) -> None:
        super().__init__()
        self.config = config
        width, cells = config.width, config.image_size // config.patch_size
        self.stem = _Stem(width)
        self.place_embed = nn.Parameter(0.02 * torch.randn(1, 1, cells * cells, width))
        self.time_embed = nn.Parameter(0.02 * torch.randn(1, config.max_frames, 1, width))
        self.camera_cue = nn.Sequential(
            nn.Linear(_CUES * cells * cells, width), nn.GELU(), nn.Linear(width, width)
        )
        self.frame_blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.layers))
        self.global_blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.layers))
        self.camera_norm = nn.LayerNorm(width)
        self.camera_head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 9))
        self.depth_head = _DepthHead(width)

    def forward(
        self, frames_BTCHW: Tensor, matches: Matches | None = None, times_T: Tensor | None = None
    ) -> GeometryPrediction:
        """Predicts from frames in [0, 1], side `image_size`.

        `matches` saves measuring the motion again; `times_T` are frame numbers when some were left out.
        """
        batch, frames = frames_BTCHW.shape[:2]
        times = torch.arange(frames, device=frames_BTCHW.device) if times_T is None else times_T
        cues = _cue_channels(match_to_first(frames_BTCHW) if matches is None else matches, times)
        time_embed = self.time_embed[:, times]
        images = frames_BTCHW.flatten(0, 1)
        tokens, fine, middle = self.stem(images, cues.flatten(0, 1))
        tokens = tokens.unflatten(0, (batch, frames)) + self.place_embed + time_embed
        cue = self.camera_cue(F.avg_pool2d(cues.flatten(0, 1), 2).flatten(1)).view(batch, frames, 1, -1)
        x = torch.cat([cue + time_embed, tokens], 2)
        count = x.shape[2]
        for frame_block, global_block in zip(self.frame_blocks, self.global_blocks, strict=True):
            x = frame_block(x.flatten(0, 1)).unflatten(0, (batch, frames))
            x = global_block(x.flatten(1, 2)).unflatten(1, (frames, count))
        camera = self.camera_head(torch.cat([self.camera_norm(x[:, :, 0]), cue[:, :, 0]], -1))
        depth, confidence = self.depth_head(x[:, :, 1:].flatten(0, 1), images, fine, middle)
        return GeometryPrediction(
            pose_encoding_BT9=_finish_pose(camera),
            depth_BTHW=depth.unflatten(0, (batch, frames)),
            confidence_BTHW=confidence.unflatten(0, (batch, frames)),
        )

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json and model.safetensors into `directory`."""
        save_checkpoint(self, self.config, directory)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> WorldGeometry:
        """Reads what `save_pretrained` wrote, in evaluation mode; RewardError names what is wrong."""
        return load_checkpoint(directory, "geometry", lambda config: cls(WorldGeometryConfig(**config)))


def _finish_pose(raw_BT9: Tensor) -> Tensor:
    """Raw outputs to an encoding whose frame 0 is the identity by construction."""
    moved = 0.1 * (raw_BT9 - raw_BT9[:, :1])
    one = torch.ones_like(moved[..., :1])
    quaternion = F.normalize(torch.cat([moved[..., 3:6], one], -1), dim=-1)
    view = 1.0472 + 0.1 * raw_BT9[..., 7:9]
    return torch.cat([moved[..., :3], quaternion, view], -1)


def pose_to_w2c(pose_encoding_T9: Tensor) -> Tensor:
    """World-to-camera matrices [..., 3, 4] of pose encodings [..., 9]."""
    x, y, z, w = F.normalize(pose_encoding_T9[..., 3:7], dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.cat([torch.stack(rows, -2), pose_encoding_T9[..., :3, None]], -1)


def pose_to_intrinsics(pose_encoding_T9: Tensor, height: int, width: int) -> Tensor:
    """Intrinsics [..., 3, 3] in pixels from the fields of view; pixel centres at integers."""
    intrinsics = pose_encoding_T9.new_zeros(*pose_encoding_T9.shape[:-1], 3, 3)
    intrinsics[..., 0, 0] = width / 2 / (pose_encoding_T9[..., 8] / 2).tan()
    intrinsics[..., 1, 1] = height / 2 / (pose_encoding_T9[..., 7] / 2).tan()
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = (width - 1) / 2, (height - 1) / 2
    intrinsics[..., 2, 2] = 1.0
    return intrinsics
