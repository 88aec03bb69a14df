"""VGGT as one module, with the names and shapes of the published weights (facebook/VGGT-1B).

Tracking needs query points, which no reward asks for; `VGGT.forward` has no output of this head. Module
names, the published spelling `virual_tracks` included, are those of the weights.

Shape legend: B clips, S frames, C colours, H, W pixels, E width of the tokens.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from rewards.geometry.vggt.config import VGGTConfig
from rewards.geometry.vggt.heads import CameraHead, DenseHead
from rewards.geometry.vggt.layers import Aggregator, Mlp

_LEVELS = 7  # pyramid levels of the correlation
_RADIUS = 4
_VIRTUAL = 64
_FLOW = 4  # extra channels of the tracker's tokens


class _SelfBlock(nn.Module):
    """Self-attention over time or over virtual tracks."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = Mlp(dim, 4 * dim, dim)


class _CrossBlock(nn.Module):
    """Attention between points and virtual tracks."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = Mlp(dim, 4 * dim, dim)


class _UpdateFormer(nn.Module):
    """The transformer that updates tracks."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        tokens, hidden, heads = 3 * config.track_features + _FLOW, config.track_hidden, config.track_heads
        depth = range(config.track_depth)
        self.input_norm = nn.LayerNorm(tokens)
        self.input_transform = nn.Linear(tokens, hidden)
        self.output_norm = nn.LayerNorm(hidden)
        self.flow_head = nn.Linear(hidden, config.track_features + 2)
        self.virual_tracks = nn.Parameter(torch.randn(1, _VIRTUAL, 1, hidden))
        self.time_blocks = nn.ModuleList(_SelfBlock(hidden, heads) for _ in depth)
        self.space_virtual_blocks = nn.ModuleList(_SelfBlock(hidden, heads) for _ in depth)
        self.space_point2virtual_blocks = nn.ModuleList(_CrossBlock(hidden, heads) for _ in depth)
        self.space_virtual2point_blocks = nn.ModuleList(_CrossBlock(hidden, heads) for _ in depth)


class _Tracker(nn.Module):
    """Correlation features, update transformer and predictors."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        features = config.track_features
        self.corr_mlp = Mlp(_LEVELS * (2 * _RADIUS + 1) ** 2, config.track_hidden, features)
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, 3 * features + _FLOW))
        self.updateformer = _UpdateFormer(config)
        self.fmap_norm = nn.LayerNorm(features)
        self.ffeat_norm = nn.GroupNorm(1, features)
        self.ffeat_updater = nn.Sequential(nn.Linear(features, features), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(features, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(features, 1))


class _TrackHead(nn.Module):
    """Container of the weights; it has no forward."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.feature_extractor = DenseHead(config, config.track_features, outputs=None)
        self.tracker = _Tracker(config)


_HEADS = ("camera", "depth", "point")


class VGGT(nn.Module):
    """Feed-forward geometry of a clip (arXiv 2503.11651). `VGGT()` is the 1B configuration."""

    def __init__(self, config: VGGTConfig | None = None) -> None:
        super().__init__()
        self.config = config or VGGTConfig()
        features = self.config.dpt_features
        self.aggregator = Aggregator(self.config)
        self.camera_head = CameraHead(self.config)
        self.point_head = DenseHead(self.config, features, outputs=4)
        self.depth_head = DenseHead(self.config, features, outputs=2)
        self.track_head = _TrackHead(self.config) if self.config.track else None

    def forward(self, images_BSCHW: Tensor, heads: Collection[str] = _HEADS) -> dict[str, Tensor]:
        """Reconstruct clips of RGB in [0,1] whose sides are multiples of the patch size.

        pose_enc B,S,9 (translation, quaternion x y z w, vertical and horizontal field of view; w2c, first
        camera is the world); depth B,S,H,W,1 and depth_conf B,S,H,W; world_points B,S,H,W,3 and
        world_points_conf B,S,H,W. In training mode also pose_enc_steps I,B,S,9, the poses of every iteration,
        each of which is to be supervised. `heads` names what is computed of "camera", "depth", "point"; only
        the layers they read are kept. The heads run in fp32 also under autocast, as published. Raises
        ValueError for wrong shapes or heads.
        """
        self._check(images_BSCHW, heads)
        height, width = images_BSCHW.shape[-2:]
        dense = self.config.dpt_layers if {"depth", "point"} & set(heads) else ()
        last = self.config.depth - 1
        layers = {*dense, last} if "camera" in heads else {*dense}
        tokens = self.aggregator(images_BSCHW, layers)
        result: dict[str, Tensor] = {}
        with torch.autocast(images_BSCHW.device.type, enabled=False):
            tokens = {layer: value.float() for layer, value in tokens.items()}
            special = self.aggregator.num_special
            if "camera" in heads:
                steps_IBS9 = self.camera_head(tokens[last][:, :, 0])
                result["pose_enc"] = steps_IBS9[-1]
                if self.training:
                    result["pose_enc_steps"] = steps_IBS9
            if "depth" in heads:
                raw = self.depth_head(tokens, special, height, width).movedim(2, -1)
                result["depth"], result["depth_conf"] = raw[..., :-1].exp(), 1 + raw[..., -1].exp()
            if "point" in heads:
                raw = self.point_head(tokens, special, height, width).movedim(2, -1)
                result["world_points"] = raw[..., :-1].sign() * raw[..., :-1].abs().expm1()
                result["world_points_conf"] = 1 + raw[..., -1].exp()
        return result

    def _check(self, images_BSCHW: Tensor, heads: Collection[str]) -> None:
        if images_BSCHW.ndim != 5 or images_BSCHW.shape[2] != 3:
            raise ValueError(f"images must have shape (B, S, 3, H, W), got {tuple(images_BSCHW.shape)}")
        patch = self.config.patch_size
        height, width = images_BSCHW.shape[-2:]
        if height % patch or width % patch or not height or not width:
            raise ValueError(
                f"height and width must be multiples of {patch}, got {height}x{width}; resize first"
            )
        if not heads or not set(heads) <= set(_HEADS):
            raise ValueError(f"heads must be some of {', '.join(_HEADS)}, got {list(heads)}")
