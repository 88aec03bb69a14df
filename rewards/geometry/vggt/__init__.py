"""VGGT (Wang et al. 2025, arXiv 2503.11651): cameras, depth and points of a clip in one forward pass."""
