"""Matches between frames, and how well they fit an epipolar geometry."""
