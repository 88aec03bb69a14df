"""A small VideoReward checkpoint in the published layout, whose weights anyone can make again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor

from tests.rewards.vggt_seed import seeded_images, seeded_tensor

TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# Words of our own with the marks of the published prompt; spaces at the end of a line are part of it.
PROMPT = (
    "\nThree marks for one clip, please.\n\n"
    "(a) How clean are the pictures, déjà vu aside?  \nMark: <|VQ_reward|>\n"
    "(b) How well do things move? <|MQ_reward|>\n\n"
    "(c) Somebody wanted to see: {text_prompt}\nIs it there? <|TA_reward|>\n"
)
STATISTICS = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}
# Frames, height, width, frames per second, prompt.
CLIPS = (
    (9, 64, 64, 8.0, "a red ball rolls left"),
    (25, 360, 480, 8.0, "une caméra {tourne} — vite"),
    (3, 90, 160, 8.0, ""),
    (30, 700, 100, 24.0, "x" * 100),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the names and shapes of a checkpoint follow from."""

    rows: int
    width: int
    layers: int
    inner: int
    key: int
    rank: int
    depth: int
    vision: int
    outputs: int = 1


SMALL = Sizes(rows=267, width=48, layers=2, inner=96, key=16, rank=4, depth=2, vision=64)
# The published model: Qwen2-VL-2B with 151657 tokens and three more, LoRA of rank 64.
PUBLISHED = Sizes(rows=151660, width=1536, layers=28, inner=8960, key=256, rank=64, depth=32, vision=1280)


def shapes(of: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the published class in transformers 4.45 with peft around it, written by hand."""
    wide = 4 * of.vision
    yield "visual.patch_embed.proj.weight", (of.vision, 3, 2, 14, 14)
    for block in range(of.depth):
        start = f"visual.blocks.{block}."
        for name in ("norm1", "norm2"):
            yield from _pair(start + name, (of.vision,))
        yield from _pair(start + "attn.qkv", (3 * of.vision, of.vision))
        yield from _pair(start + "attn.proj", (of.vision, of.vision))
        yield from _pair(start + "mlp.fc1", (wide, of.vision))
        yield from _pair(start + "mlp.fc2", (of.vision, wide))
    yield from _pair("visual.merger.ln_q", (of.vision,))
    yield from _pair("visual.merger.mlp.0", (wide, wide))
    yield from _pair("visual.merger.mlp.2", (of.width, wide))
    yield "model.embed_tokens.weight", (of.rows, of.width)
    for layer in range(of.layers):
        start = f"model.layers.{layer}."
        yield start + "input_layernorm.weight", (of.width,)
        yield start + "post_attention_layernorm.weight", (of.width,)
        for name, shape, biased in (
            ("self_attn.q_proj", (of.width, of.width), True),
            ("self_attn.k_proj", (of.key, of.width), True),
            ("self_attn.v_proj", (of.key, of.width), True),
            ("self_attn.o_proj", (of.width, of.width), False),
            ("mlp.gate_proj", (of.inner, of.width), False),
            ("mlp.up_proj", (of.inner, of.width), False),
            ("mlp.down_proj", (of.width, of.inner), False),
        ):
            yield start + name + ".base_layer.weight", shape
            if biased:
                yield start + name + ".base_layer.bias", shape[:1]
            yield start + name + ".lora_A.default.weight", (of.rank, shape[1])
            yield start + name + ".lora_B.default.weight", (shape[0], of.rank)
    yield "model.norm.weight", (of.width,)
    yield "lm_head.weight", (of.rows, of.width)
    yield "rm_head.weight", (of.outputs, of.width)


def _pair(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", shape
    yield name + ".bias", shape[:1]


def checkpoint(outputs: int = 1) -> dict[str, Tensor]:
    """The small model's tensors, drawn by name; the language head is the embedding."""
    sizes = Sizes(**{**vars(SMALL), "outputs": outputs})
    state = {
        f"base_model.model.{name}": seeded_tensor(name, shape)
        * (3.0 if name.endswith(("rm_head.weight", "embed_tokens.weight")) else 1.0)
        for name, shape in shapes(sizes)
    }
    state["base_model.model.lm_head.weight"] = state["base_model.model.model.embed_tokens.weight"]
    return state


def settings(outputs: int = 1) -> dict[str, Any]:
    """A model_config.json."""
    return {
        "data_config": {
            "fps": 2.0,
            "max_frame_pixels": 200704,
            "num_frames": None,
            "sample_type": "uniform",
            "prompt_template_type": "detailed_special",
            "prompt_sha256": hashlib.sha256(PROMPT.encode()).hexdigest(),
        },
        "model_config": {"output_dim": outputs, "use_special_tokens": True},
        "peft_lora_config": {"lora_enable": True, "vision_lora": False, "lora_r": 4, "lora_alpha": 8},
        "inference_config": {
            f"{name}_{part}": value
            for name, pair in STATISTICS.items()
            for part, value in zip(("mean", "std"), pair, strict=True)
        },
    }


def qwen() -> dict[str, Any]:
    """The config.json of a small Qwen2-VL, flat as the Hub has it."""
    ids = {token: 256 + place for place, token in enumerate(TOKENS)}
    return {
        "model_type": "qwen2_vl",
        "vocab_size": SMALL.rows + 20,
        "hidden_size": SMALL.width,
        "intermediate_size": SMALL.inner,
        "num_hidden_layers": SMALL.layers,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": SMALL.depth,
            "embed_dim": SMALL.vision,
            "mlp_ratio": 4,
            "num_heads": 2,
            "in_chans": 3,
            "hidden_size": SMALL.width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }


def write_base(folder: Path) -> Path:
    """config.json and tokenizer.json (bytes without merges) of the small Qwen2-VL."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: place for place, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(qwen()))
    return folder


def write_published(folder: Path, outputs: int = 1) -> Path:
    """A checkpoint as it is published: model_config.json and a pickle."""
    (folder / "checkpoint-7").mkdir(parents=True)
    (folder / "model_config.json").write_text(json.dumps(settings(outputs)))
    torch.save(checkpoint(outputs), folder / "checkpoint-7" / "model.pth")
    return folder


def write_prompt(folder: Path) -> Path:
    """The prompt as it is published: in a module, this one with more in it that must not run."""
    path = folder / "prompt_template.py"
    lines = ["raise SystemExit", "OTHER = 'another'", f"DETAILED_PROMPT_WITH_SPECIAL_TOKEN = {PROMPT!r}"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def frames(number: int) -> Tensor:
    """The uint8 frames [T, H, W, 3] of one of CLIPS."""
    count, height, width = CLIPS[number][:3]
    images_TCHW = seeded_images(1, count, height, width)[0]
    return (images_TCHW * 255).round().byte().permute(0, 2, 3, 1).contiguous()
