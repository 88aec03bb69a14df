"""The weights of VGGT's track head: present so that published weights load completely, never run here.

Tracking needs query points, which no reward asks for; `VGGT.forward` has no output of this head. Module
names, the published spelling `virual_tracks` included, are those of the weights.
"""

from __future__ import annotations

import torch
from torch import nn

from rewards.vggt.config import VGGTConfig
from rewards.vggt.dense_head import DenseHead
from rewards.vggt.layers import Mlp

_LEVELS = 7  # pyramid levels of the correlation
_RADIUS = 4
_VIRTUAL = 64
_FLOW = 4  # extra channels of the tracker's tokens


class SelfBlock(nn.Module):
    """Self-attention over time or over virtual tracks."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = Mlp(dim, 4 * dim, dim)


class CrossBlock(nn.Module):
    """Attention between points and virtual tracks."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = Mlp(dim, 4 * dim, dim)


class UpdateFormer(nn.Module):
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
        self.time_blocks = nn.ModuleList(SelfBlock(hidden, heads) for _ in depth)
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(hidden, heads) for _ in depth)
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(hidden, heads) for _ in depth)
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(hidden, heads) for _ in depth)


class Tracker(nn.Module):
    """Correlation features, update transformer and predictors."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        features = config.track_features
        self.corr_mlp = Mlp(_LEVELS * (2 * _RADIUS + 1) ** 2, config.track_hidden, features)
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, 3 * features + _FLOW))
        self.updateformer = UpdateFormer(config)
        self.fmap_norm = nn.LayerNorm(features)
        self.ffeat_norm = nn.GroupNorm(1, features)
        self.ffeat_updater = nn.Sequential(nn.Linear(features, features), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(features, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(features, 1))


class TrackHead(nn.Module):
    """Container of the weights; it has no forward."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.feature_extractor = DenseHead(config, config.track_features, outputs=None)
        self.tracker = Tracker(config)
