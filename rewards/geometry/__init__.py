"""Geometry backends: from the frames of a clip to depth and cameras."""
