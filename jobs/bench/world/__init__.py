"""Held-out figures of the embedded world, and the study of rewards."""
