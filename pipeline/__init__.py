"""Prompts, samplers, scoring and pairing stages, and the embedded world."""
