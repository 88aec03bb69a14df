"""Tiny Wan model folders of the real diffusers classes, with random weights: one of each kind.

Sizes: 32x48 pixels (64x64 for TI2V, whose VAE shrinks by 16), 9 frames; latents [4, 3, 4, 6] or [4, 3, 4, 4].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.pipeline.tiny import tokenizer

Kind = Literal["t2v", "i2v", "ti2v"]
KINDS: tuple[Kind, ...] = ("t2v", "i2v", "ti2v")

CHANNELS, TEXT, FEATURES = 4, 16, 20
FRAMES, LATENT_FRAMES, TOKENS = 9, 3, 8
SHIFT = 3.0


def size(kind: Kind) -> tuple[int, int]:
    """Height and width in pixels."""
    return (64, 64) if kind == "ti2v" else (32, 48)


def latent_shape(kind: Kind) -> tuple[int, int, int, int]:
    return (CHANNELS, LATENT_FRAMES, 4, 4 if kind == "ti2v" else 6)


def transformer(kind: Kind, **overrides: Any) -> WanTransformer3DModel:
    torch.manual_seed(2)
    config: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 2 * CHANNELS + 4 if kind == "i2v" else CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
        "image_dim": FEATURES if kind == "i2v" else None,
        "added_kv_proj_dim": 24 if kind == "i2v" else None,
    }
    return WanTransformer3DModel(**(config | overrides)).eval()


def vae(kind: Kind) -> AutoencoderKLWan:
    torch.manual_seed(3)
    wide: dict[str, Any] = {}
    if kind == "ti2v":
        wide = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
        wide |= {"scale_factor_spatial": 16, "decoder_base_dim": 4}
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.7, 0.1, 0.4, -0.2],
        latents_std=[1.3, 0.6, 2.1, 0.9],
        **wide,
    ).eval()


def scheduler(name: Literal["unipc", "euler"] = "unipc") -> Any:
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
    )


def components(
    kind: Kind, scheduler_name: Literal["unipc", "euler"] = "unipc", **overrides: Any
) -> dict[str, Any]:
    """The components of a pipeline. The same kind gives the same weights. `overrides` of the transformer."""
    words = tokenizer()
    torch.manual_seed(4)
    text = UMT5Config(
        vocab_size=len(words), d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    parts = {
        "tokenizer": words,
        "text_encoder": UMT5EncoderModel(text).eval(),
        "vae": vae(kind),
        "transformer": transformer(kind, **overrides),
        "scheduler": scheduler(scheduler_name),
    }
    if kind == "i2v":
        vision = CLIPVisionConfig(
            hidden_size=FEATURES,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        edges = {"shortest_edge": 16}
        parts["image_encoder"] = CLIPVisionModel(vision).eval()
        parts["image_processor"] = CLIPImageProcessor(size=edges, crop_size={"height": 16, "width": 16})
    return parts


def pipeline(
    kind: Kind,
    scheduler_name: Literal["unipc", "euler"] = "unipc",
    *,
    from_image: bool | None = None,
    **overrides: Any,
) -> Any:
    """The stock pipeline. TI2V is a WanPipeline, as its folder says, unless it is to start `from_image`."""
    of_image = kind == "i2v" if from_image is None else from_image
    made = (WanImageToVideoPipeline if of_image else WanPipeline)(
        **components(kind, scheduler_name, **overrides), expand_timesteps=kind == "ti2v"
    )
    made.set_progress_bar_config(disable=True)
    return made


def build(
    folder: Path, kind: Kind, scheduler_name: Literal["unipc", "euler"] = "unipc", **overrides: Any
) -> Path:
    """Save a model folder."""
    pipeline(kind, scheduler_name, **overrides).save_pretrained(folder)
    return folder


def record_calls(module: Any, run: Callable[[], Any]) -> list[tuple[dict[str, Any], Tensor]]:
    """Inputs and output of every call of a transformer inside `run`."""
    calls: list[tuple[dict[str, Any], Tensor]] = []

    def hook(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append((dict(kwargs), output[0].clone()))

    handle = module.register_forward_hook(hook, with_kwargs=True)
    run()
    handle.remove()
    return calls


def random_pair(kind: Kind = "t2v", seed: int = 0, count: int = 1) -> tuple[Tensor, Tensor]:
    """Clean latents and noise."""
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn(count, *latent_shape(kind), generator=generator) for _ in range(2))
    return clean, noise
