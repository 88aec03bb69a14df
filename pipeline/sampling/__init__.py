"""Candidates from prompts: the samplers of the model families, and the stage that runs them."""
