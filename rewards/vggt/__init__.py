"""VGGT (Wang et al. 2025, arXiv 2503.11651): cameras, depth and points of a clip in one forward pass."""

from __future__ import annotations

from rewards.vggt.config import VGGTConfig
from rewards.vggt.model import VGGT

__all__ = ["VGGT", "VGGTConfig"]
