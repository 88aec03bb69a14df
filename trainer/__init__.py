"""Preference training of video diffusion models: LoRA, Diffusion-DPO, exact resume.

Nothing is imported here, so that configuration and losses stay importable without the model libraries.
"""
