"""The network against the published class.

golden.json holds raw rewards by the published code (KwaiVGI/VideoAlign 219ab9d with transformers 4.45.2 and
peft 0.10.0) for the checkpoint, the clips and, in place of its own, the prompt of tiny.py, run once in
float32 on a CPU with rotary frequencies rounded to bfloat16, as its conversion of the model to bfloat16 does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rewards.videoreward.network import VideoRewardNetwork, Words, build_network, collate, prepare
from rewards.videoreward.settings import VideoRewardConfig, read_config
from rewards.videoreward.weights import fit_network
from tests.rewards.videoreward.tiny import (
    CLIPS,
    PROMPT,
    PUBLISHED,
    checkpoint,
    frames,
    qwen,
    settings,
    shapes,
    write_base,
)

HERE = Path(__file__).parent
QWEN_2B: dict[str, Any] = qwen() | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
    "vision_config": qwen()["vision_config"]
    | {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536},
    "image_token_id": 151655,
    "video_token_id": 151656,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}


def tiny(folder: Path, outputs: int) -> tuple[VideoRewardNetwork, VideoRewardConfig, Words]:
    base = write_base(folder / "base")
    (base / "model_config.json").write_text(json.dumps(settings(outputs)))
    config, words = read_config(base / "model_config.json"), Words(base / "tokenizer.json", PROMPT)
    return fit_network(base, checkpoint(outputs), config, base / "config.json", words), config, words


def test_the_2b_model_has_the_names_and_shapes_of_the_published_weights() -> None:
    config = VideoRewardConfig(
        fps=2,
        max_frame_pixels=200704,
        lora_rank=64,
        lora_alpha=128,
        output_dim=1,
        means=(3.6757, 1.1646, 2.8105),
        stds=(2.2476, 1.3811, 2.5121),
    )
    network = build_network(QWEN_2B, config, PUBLISHED.rows, (151657, 151658, 151659))
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    published = dict(shapes(PUBLISHED))
    # The published file has 1123 tensors of bfloat16 and 5,031,072,529 bytes, zip and pickle included.
    assert len(published) == 1123
    assert sum(2 * torch.Size(shape).numel() for shape in published.values()) == 5_030_744_064
    del published["lm_head.weight"]
    renamed = {
        ("model.language_" if name.startswith("model.") else "model." if name.startswith("visual") else "")
        + name: shape
        for name, shape in published.items()
    }
    assert ours == renamed
    assert all(tensor.is_meta for tensor in network.state_dict().values())


@pytest.mark.parametrize("outputs", [1, 3])
@torch.inference_mode()
def test_raw_rewards_agree_with_the_published_code(tmp_path: Path, outputs: int) -> None:
    network, config, words = tiny(tmp_path, outputs)
    golden = json.loads((HERE / "golden.json").read_text())[str(outputs)]
    inputs = [prepare(frames(one), *CLIPS[one][3:], config, words) for one in range(len(CLIPS))]
    for clip, expected in zip(inputs, golden, strict=True):
        assert (len(clip.ids_L), list(clip.grid)) == (expected["tokens"], expected["grid"])
        raw = network(*collate([clip]))[0]
        assert torch.allclose(raw, torch.tensor(expected["raw"]), atol=2e-4, rtol=0)
    # All at once: the shorter ones are padded.
    together = network(*collate(inputs))
    assert torch.allclose(together, torch.tensor([one["raw"] for one in golden]), atol=2e-4, rtol=0)


@torch.inference_mode()
def test_positions_and_rotary_frequencies_matter_here(tmp_path: Path) -> None:
    """What the golden values would not show if they were insensitive to it."""
    network, config, words = tiny(tmp_path, 1)
    clip = prepare(frames(0), *CLIPS[0][3:], config, words)
    rotary = network.model.language_model.rotary_emb
    as_published = network(*collate([clip]))
    assert torch.equal(rotary.inv_freq, rotary.inv_freq.bfloat16().float())
    rotary.inv_freq.copy_(1e6 ** -(torch.arange(0, 16, 2) / 16))
    assert (network(*collate([clip])) - as_published).abs().max() > 0.02


@torch.inference_mode()
def test_a_row_without_its_reward_tokens_is_an_error(tmp_path: Path) -> None:
    network, config, words = tiny(tmp_path, 1)
    ids_BL, *rest = collate([prepare(frames(0), *CLIPS[0][3:], config, words)])
    ids_BL[ids_BL == words.reward_ids[1]] = 5
    with pytest.raises(ValueError, match="reward token 265 must be in every row once"):
        network(ids_BL, *rest)
