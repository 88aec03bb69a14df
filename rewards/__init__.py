"""Geometric rewards on tensors: reconstruction, splatting, reprojection error, motion and picture quality."""
