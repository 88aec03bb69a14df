"""A tiny CogVideoX of the real classes with random weights, and pairs that fit it.

Latents are [F=3, C=4, H=4, W=6], prompts [L=5, D=12].
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from torch import Tensor

from trainer.config import TrainConfig

LATENT_SHAPE = (3, 4, 4, 6)
PROMPT_SHAPE = (5, 12)


def build_transformer(**overrides: Any) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 8,
        "out_channels": 4,
        "time_embed_dim": 16,
        "text_embed_dim": 12,
        "num_layers": 2,
        "sample_width": 6,
        "sample_height": 4,
        "sample_frames": 9,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 5,
        "use_rotary_positional_embeddings": True,
    }
    return CogVideoXTransformer3DModel(**(config | overrides)).eval()


def build_scheduler() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
    )


def save_model(directory: Path, transformer: CogVideoXTransformer3DModel) -> Path:
    transformer.save_pretrained(directory / "transformer")
    build_scheduler().save_pretrained(directory / "scheduler")
    index = {
        "_class_name": "CogVideoXImageToVideoPipeline",
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


@dataclass
class Row:
    pair_id: str
    winner_latents: Tensor
    loser_latents: Tensor
    prompt_embeds: Tensor
    image_latents: Tensor | None
    image_embeds: Tensor | None = None
    num_frames: int | None = None


@dataclass
class MemoryPairs:
    rows: list[Row]
    model: str = "tiny"
    revision: str = "r1"

    latent_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rows:
            self.latent_shape = tuple(self.rows[0].winner_latents.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Row:
        return self.rows[index]

    def swapped(self) -> MemoryPairs:
        rows = [replace(r, winner_latents=r.loser_latents, loser_latents=r.winner_latents) for r in self.rows]
        return MemoryPairs(rows)


def build_pairs(count: int, latent_shape: tuple[int, ...] = LATENT_SHAPE, gap: float = 1.0) -> MemoryPairs:
    generator = torch.Generator().manual_seed(7)
    rows = []
    for index in range(count):
        base = torch.randn(latent_shape, generator=generator)
        offset = gap * torch.randn(latent_shape, generator=generator)
        rows.append(
            Row(
                pair_id=f"pair-{index}",
                winner_latents=base + offset,
                loser_latents=base - offset,
                prompt_embeds=torch.randn(PROMPT_SHAPE, generator=generator),
                image_latents=torch.randn((1, *latent_shape[1:]), generator=generator),
            )
        )
    return MemoryPairs(rows)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), build_transformer())


@pytest.fixture
def make_transformer() -> Callable[..., CogVideoXTransformer3DModel]:
    return build_transformer


@pytest.fixture
def make_scheduler() -> Callable[[], CogVideoXDPMScheduler]:
    return build_scheduler


@pytest.fixture
def make_model() -> Callable[[Path, CogVideoXTransformer3DModel], Path]:
    return save_model


@pytest.fixture
def make_pairs() -> Callable[..., MemoryPairs]:
    return build_pairs


@pytest.fixture
def make_config(model_dir: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Configurations of short trainings; every call with the same `out` is the same command again."""

    def make(out: str = "out", **overrides: Any) -> TrainConfig:
        options: dict[str, Any] = {
            "model_dir": model_dir,
            "model": "tiny",
            "revision": "r1",
            "pairs_dir": tmp_path / "pairs",
            "out_dir": tmp_path / out,
            "rank": 4,
            "alpha": 16,
            "lr": 1e-3,
            "steps": 6,
            "warmup": 2,
            "batch_size": 2,
            "checkpoint_every": 2,
            "device": "cpu",
            "report_to": (),
            "forward": "together",
            "gradient_checkpointing": "off",
        }
        return TrainConfig(**(options | overrides))

    return make
