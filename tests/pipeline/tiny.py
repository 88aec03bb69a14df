"""A tiny image-to-video model folder of the real diffusers classes, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

SIZE, FRAMES, TOKENS = 32, 9, 8
CHANNELS = 4
SAMPLER: dict[str, Any] = {
    "steps": 2,
    "guidance": 1.0,
    "height": SIZE,
    "width": SIZE,
    "num_frames": FRAMES,
    "fps": 8,
    "max_sequence_length": TOKENS,
}


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", "a", "quiet", "hall", "room", "camera", "motion", "pan"]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


# What tells version 1.5 from 1.0: patches of two frames, and positions from a table larger than any video.
VERSION_1_5: dict[str, Any] = {
    "patch_size_t": 2,
    "patch_bias": False,
    "sample_height": 20,
    "sample_width": 20,
}


def vae(**overrides: Any) -> AutoencoderKLCogVideoX:
    config: dict[str, Any] = {
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "block_out_channels": (4, 4, 4, 4),
        "layers_per_block": 1,
        "latent_channels": CHANNELS,
        "norm_num_groups": 2,
        "sample_height": SIZE,
        "sample_width": SIZE,
    }
    return AutoencoderKLCogVideoX(**(config | overrides))


def transformer(in_channels: int, **overrides: Any) -> CogVideoXTransformer3DModel:
    config: dict[str, Any] = {
        "num_attention_heads": 1,
        "attention_head_dim": 16,
        "in_channels": in_channels,
        "out_channels": CHANNELS,
        "time_embed_dim": 8,
        "text_embed_dim": 16,
        "num_layers": 1,
        "sample_width": 4,
        "sample_height": 4,
        "sample_frames": FRAMES,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": TOKENS,
        "use_rotary_positional_embeddings": True,
    }
    return CogVideoXTransformer3DModel(**(config | overrides))


def build(
    folder: Path,
    *,
    seed: int = 0,
    text_only: bool = False,
    vae_model: Any = None,
    version_1_5: bool = False,
    tokens: Any = None,
) -> Path:
    """Save a model folder. The same seed gives the same weights."""
    torch.manual_seed(seed)
    words = tokens or tokenizer()
    config = T5Config(
        vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    pipeline_class = CogVideoXPipeline if text_only else CogVideoXImageToVideoPipeline
    changes = VERSION_1_5 | ({} if text_only else {"ofs_embed_dim": 8}) if version_1_5 else {}
    pipeline_class(
        tokenizer=words,
        text_encoder=T5EncoderModel(config).eval(),
        vae=(vae_model or vae(invert_scale_latents=version_1_5 and not text_only)).eval(),
        transformer=transformer(CHANNELS if text_only else 2 * CHANNELS, **changes).eval(),
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
    ).save_pretrained(folder)
    return folder
