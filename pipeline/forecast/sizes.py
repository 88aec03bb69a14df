"""Bytes that a candidate leaves, from the configuration of its model: for before anything was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models import ModelRef
from pipeline.sampling.samplers import first_frame
from pipeline.sampling.settings import SamplerSettings

# H.264 at crf 8 took .1 bytes per pixel for soft pictures and .75 for grainy ones (world at 512x512).
_VIDEO_BYTES_PER_PIXEL = 0.4
_LATENT_BYTES = 4
_CONDITION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Bytes of the latents of a video, of the encoded condition of a prompt, and about of the video."""

    latents: int
    condition: int
    video: float


def model_sizes(model: ModelRef, sampler: SamplerSettings) -> ModelSizes | None:
    """The sizes, or None when the model's VAE says nothing of its latents."""
    vae = _config(model.path / "vae")
    channels = vae.get("latent_channels") or vae.get("z_dim")
    if not isinstance(channels, int):
        return None
    blocks = vae.get("block_out_channels")
    spatial = vae.get("scale_factor_spatial") or 2 ** (len(blocks) - 1 if blocks else 3)
    temporal = vae.get("scale_factor_temporal") or vae.get("temporal_compression_ratio") or 4
    frames = (sampler.num_frames - 1) // temporal + 1
    numbers = channels * frames * (sampler.height // spatial) * (sampler.width // spatial)
    text = _config(model.path / "text_encoder").get("d_model", 0) * sampler.max_sequence_length
    image = numbers if first_frame(model) != "unused" else 0
    return ModelSizes(
        latents=_LATENT_BYTES * numbers,
        condition=(text + image) * _CONDITION_BYTES[sampler.precision],
        video=sampler.num_frames * sampler.height * sampler.width * _VIDEO_BYTES_PER_PIXEL,
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
