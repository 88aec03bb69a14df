"""Measures of pictures, motion and reprojections that stand beside a reward."""
