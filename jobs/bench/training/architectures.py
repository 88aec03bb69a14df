"""The published sizes of the models that presets name, to be built at random weights where none are.

Configurations are those of the transformer/config.json on the Hub; shapes follow from a preset's frame size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXTransformer3DModel, WanTransformer3DModel

from storage.errors import UserError
from trainer.families.base import Family, PairShapes
from trainer.families.cogvideox import CogVideoXFamily
from trainer.families.wan import WanFamily


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A published model: its transformer's configuration, and how videos become latents."""

    kind: str
    config: dict[str, Any]
    latent_channels: int = 16
    spatial: int = 8
    image: bool = False
    snr_shift_scale: float = 1.0
    shift: float = 3.0
    expand_timesteps: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def shapes(self, num_frames: int, height: int, width: int) -> PairShapes:
        """What a pair of videos of this size (frames, pixels) holds."""
        frames, cells = (num_frames - 1) // 4 + 1, (height // self.spatial, width // self.spatial)
        if self.kind == "cogvideox":
            patch = self.config.get("patch_size_t") or 1
            latent = (math.ceil(frames / patch) * patch, self.latent_channels, *cells)
            image = latent if self.image else None
            return PairShapes(latent=latent, prompt=(226, 4096), image=image, num_frames=num_frames)
        latent = (self.latent_channels, frames, *cells)
        joined = self.config["in_channels"] - self.latent_channels
        embeds = (257, self.config["image_dim"]) if self.config.get("image_dim") else None
        return PairShapes(
            latent=latent,
            prompt=(512, 4096),
            image=(joined, *latent[1:]) if joined else None,
            image_embeds=embeds,
            num_frames=num_frames,
        )

    def build(self, dtype: torch.dtype, device: torch.device | str) -> Family:
        """The model at random weights in this precision, made where it will be used."""
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype)
            with torch.device(device):
                cogvideox = self.kind == "cogvideox"
                transformer = (CogVideoXTransformer3DModel if cogvideox else WanTransformer3DModel)(
                    **self.config
                )
        finally:
            torch.set_default_dtype(before)
        if not cogvideox:
            return WanFamily(transformer, shift=self.shift, expand_timesteps=self.expand_timesteps)
        scheduler = CogVideoXDPMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=self.snr_shift_scale,
            timestep_spacing="trailing",
        )
        return CogVideoXFamily(transformer, scheduler)


def _cogvideox(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "num_attention_heads": 48,
        "attention_head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 42,
        "time_embed_dim": 512,
        "text_embed_dim": 4096,
        "sample_width": 90,
        "sample_height": 60,
        "sample_frames": 49,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 226,
        "use_rotary_positional_embeddings": True,
    }
    return config | changes


_COGVIDEOX_15 = {
    "patch_size_t": 2,
    "patch_bias": False,
    "sample_width": 300,
    "sample_height": 300,
    "sample_frames": 81,
}


def _wan(heads: int, layers: int, ffn: int, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": ffn,
        "num_layers": layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "rope_max_seq_len": 1024,
    }
    return config | changes


ARCHITECTURES: dict[str, Architecture] = {
    "cogvideox-2b": Architecture(
        kind="cogvideox",
        config=_cogvideox(num_attention_heads=30, num_layers=30, use_rotary_positional_embeddings=False),
        snr_shift_scale=3.0,
    ),
    "cogvideox-5b": Architecture(kind="cogvideox", config=_cogvideox()),
    "cogvideox-5b-i2v": Architecture(
        kind="cogvideox",
        config=_cogvideox(in_channels=32, use_learned_positional_embeddings=True),
        image=True,
    ),
    "cogvideox1.5-5b": Architecture(kind="cogvideox", config=_cogvideox(**_COGVIDEOX_15)),
    "cogvideox1.5-5b-i2v": Architecture(
        kind="cogvideox",
        config=_cogvideox(in_channels=32, ofs_embed_dim=512, **_COGVIDEOX_15),
        image=True,
    ),
    "wan2.1-t2v-1.3b": Architecture(kind="wan", config=_wan(12, 30, 8960)),
    "wan2.1-t2v-14b": Architecture(kind="wan", config=_wan(40, 40, 13824)),
    "wan2.1-i2v-14b-480p": Architecture(
        kind="wan", config=_wan(40, 40, 13824, in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
    ),
    "wan2.2-ti2v-5b": Architecture(
        kind="wan",
        config=_wan(24, 30, 14336, in_channels=48, out_channels=48),
        latent_channels=48,
        spatial=16,
        shift=5.0,
        expand_timesteps=True,
    ),
}


def architecture(name: str) -> Architecture:
    """The published model of a preset. Raises UserError naming the known ones."""
    if name not in ARCHITECTURES:
        raise UserError(
            f"no published sizes of {name!r} are known here: use one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
