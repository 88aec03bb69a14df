"""Every published kind of CogVideoX, small, and a run of its own pipeline that shows what the model is given.

The flags of a kind (positions, patches, channels, schedulers) are those of the published configurations; only
widths, depths and sizes are smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
)

CHANNELS = 4
TOKENS = 5
SCHEDULERS: dict[str, Any] = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
# Version 1.5 takes its positions from a table that is larger than any video.
_VERSION_1_5: dict[str, Any] = {
    "patch_size_t": 2,
    "patch_bias": False,
    "sample_height": 20,
    "sample_width": 20,
}


@dataclass(frozen=True)
class Kind:
    """Overrides of the small transformer, the scheduler, and whether image latents are scaled inversely."""

    transformer: dict[str, Any] = field(default_factory=dict)
    scheduler: str = "dpm"
    snr_shift: float = 1.0
    invert_scale: bool = False

    @property
    def image(self) -> bool:
        return self.transformer.get("in_channels", 2 * CHANNELS) == 2 * CHANNELS

    @property
    def fixed_size(self) -> bool:
        return bool(self.transformer.get("use_learned_positional_embeddings"))


KINDS: dict[str, Kind] = {
    "2b": Kind({"in_channels": 4, "use_rotary_positional_embeddings": False}, "ddim", 3.0),
    "2b dpm": Kind({"in_channels": 4, "use_rotary_positional_embeddings": False}, "dpm", 3.0),
    "5b": Kind({"in_channels": 4}),
    "5b ddim": Kind({"in_channels": 4}, "ddim"),
    "5b i2v": Kind({"use_learned_positional_embeddings": True}),
    "1.5": Kind({"in_channels": 4, **_VERSION_1_5}),
    "1.5 i2v": Kind({"ofs_embed_dim": 16, **_VERSION_1_5}, invert_scale=True),
    "world": Kind({}, "ddim"),
}


def make_vae(kind: Kind) -> AutoencoderKLCogVideoX:
    torch.manual_seed(1)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7,
        invert_scale_latents=kind.invert_scale,
    ).eval()


def make_scheduler(kind: Kind) -> Any:
    return SCHEDULERS[kind.scheduler](
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=kind.snr_shift,
        timestep_spacing="trailing",
    )


@dataclass(frozen=True)
class Recorded:
    """Inputs and output of the transformer at every step, and the final latents and pixels of the run."""

    calls: list[tuple[dict[str, Any], torch.Tensor]]
    latents: torch.Tensor


def run_pipeline(
    kind: Kind,
    build_transformer: Callable[..., Any],
    size: tuple[int, int],
    *,
    guidance: float = 1.0,
    num_frames: int = 9,
    batch: int = 1,
) -> tuple[Any, Recorded]:
    """The transformer, and what a run of the kind's pipeline fed it; size is (height, width) in pixels."""
    transformer = build_transformer(**kind.transformer)
    calls: list[tuple[dict[str, Any], torch.Tensor]] = []

    def hook(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append((dict(kwargs), output[0].clone()))

    generator = torch.Generator().manual_seed(3)
    options: dict[str, Any] = {
        "prompt_embeds": torch.randn(batch, TOKENS, 12, generator=generator),
        "negative_prompt_embeds": torch.randn(batch, TOKENS, 12, generator=generator),
        "height": size[0],
        "width": size[1],
        "num_frames": num_frames,
        "num_inference_steps": 4,
        "guidance_scale": guidance,
        "generator": generator,
        "output_type": "latent",
    }
    if kind.image:
        options["image"] = torch.rand(batch, 3, *size, generator=generator)
    cls = CogVideoXImageToVideoPipeline if kind.image else CogVideoXPipeline
    pipe = cls(
        tokenizer=None,
        text_encoder=None,
        vae=make_vae(kind),
        transformer=transformer,
        scheduler=make_scheduler(kind),
    )
    pipe.set_progress_bar_config(disable=True)
    handle = transformer.register_forward_hook(hook, with_kwargs=True)
    latents = pipe(**options).frames
    handle.remove()
    return transformer, Recorded(calls=calls, latents=latents)
