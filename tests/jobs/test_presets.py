"""Every preset fills every option with something the settings accept, and fits the model it names.

Published configurations of the transformers are written here as they are in the models' config.json, so that
the sizes of a preset are checked without a download.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXTransformer3DModel

from jobs.data.pair import pair_settings
from jobs.data.sample import sample_settings
from jobs.data.score import score_settings
from jobs.evaluate.command import evaluate_settings
from jobs.main import named_command
from jobs.settings.presets import find_preset, load_preset, preset_names
from trainer.config import TrainConfig
from trainer.families.base import PairShapes
from trainer.families.cogvideox import CogVideoXFamily

# Options that name what only the user knows, or that follow from others when they are not given.
_OF_WORKERS = {"ray_address", "min_workers", "runtime_env", "stall_timeout", "grace", "dashboard"}
OPEN: dict[str, set[str]] = {
    "sample": {"prompts", "revision", "adapter", "limit", *_OF_WORKERS},
    "score": {
        "geometry_model",
        "geometry_revision",
        "photometric",
        "pairs",
        "matcher",
        "matcher_weights",
        "perceptual_weights",
        "limit",
        *_OF_WORKERS,
    },
    "pair": {"reward_version", "out", "index_only", "decisions", "memory", "threads"},
    "train-dpo": {
        "pairs",
        "max_pairs",
        "revision",
        "from_adapter",
        "patience",
        "max_timestep",
        "push_to_hub",
    },
    "evaluate": {"adapters", "prompts", "model", "revision", *_OF_WORKERS},
}
# Where a training lies and goes, rather than what it is.
OF_TRAINING = {"preset", "pairs", "name", "revision", "sample_prompts", "push_to_hub", "public"}
COMMON = {"run", "preset", "recipe", "dry_run", "finish", "as_json", "help", "help_all"}

_FIVE_B: dict[str, Any] = {
    "num_attention_heads": 48,
    "num_layers": 42,
    "use_rotary_positional_embeddings": True,
}
_VERSION_1_5: dict[str, Any] = {
    "patch_size_t": 2,
    "patch_bias": False,
    "sample_height": 300,
    "sample_width": 300,
    "sample_frames": 81,
}
# What differs from the class's own defaults, which are those of CogVideoX-2b.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "cogvideox-2b": {},
    "cogvideox-5b": _FIVE_B,
    "cogvideox-5b-i2v": _FIVE_B | {"in_channels": 32, "use_learned_positional_embeddings": True},
    "cogvideox1.5-5b": _FIVE_B | _VERSION_1_5,
    "cogvideox1.5-5b-i2v": _FIVE_B | _VERSION_1_5 | {"in_channels": 32, "ofs_embed_dim": 512},
}
LARGE = [name for name in preset_names() if load_preset(name)["sample"]["model"] != "world"]
BILLIONS = {"cogvideox-2b": 1.69, "cogvideox-5b": 5.57}


def parsed(name: str, preset: str) -> dict[str, Any]:
    """The options of a command as it receives them when the command line names the preset alone."""
    command = named_command(name)
    with command.make_context(name, ["run", "--preset", preset]) as ctx:
        return {key: value for key, value in ctx.params.items() if key not in COMMON - {"preset"}}


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", OPEN)
def test_a_preset_fills_every_option(preset: str, name: str) -> None:
    command: click.Command = named_command(name)
    options = {str(one.name) for one in command.params if isinstance(one, click.Option)}
    section = load_preset(preset)[name]
    # What a preset does not state is as the settings have it, or is open.
    stated = {one.name for one in command.params if one.default is None}
    assert (options & stated) - COMMON - OPEN[name] <= set(section)
    assert all(value is not None for value in section.values())


@pytest.mark.parametrize("preset", preset_names())
def test_the_settings_accept_a_preset(preset: str, tmp_path: Path) -> None:
    sample = sample_settings(parsed("sample", preset))
    assert sample.model == load_preset(preset)["train-dpo"]["model"]
    score_settings(parsed("score", preset))
    pair, _ = pair_settings(parsed("pair", preset))
    assert pair.rules.reward == load_preset(preset)["score"]["reward"]
    chosen = parsed("evaluate", preset)
    del chosen["preset"], chosen["adapters"]
    assert evaluate_settings(find_preset(preset), ("adapter",), chosen).sample.sampler == sample.sampler
    config = train_config(preset, tmp_path)
    assert config.model == sample.model


def test_options_that_a_run_recorded_before_they_existed_are_at_their_defaults() -> None:
    section = load_preset("world")["sample"]
    later = ("adapter_weight", "negative_prompt", "vae_tiling", "vae_slicing", "offload", "compile")
    earlier = {name: value for name, value in section.items() if name not in later}
    assert sample_settings(earlier) == sample_settings(section)


def train_config(preset: str, folder: Path) -> TrainConfig:
    given = parsed("train-dpo", preset)
    rest = {key: value for key, value in given.items() if key not in OF_TRAINING}
    return TrainConfig(model_dir=folder, revision="r", pairs_dir=folder, out_dir=folder, **rest)


@pytest.mark.parametrize("preset", LARGE)
def test_large_models_train_by_the_papers_recipe(preset: str, tmp_path: Path) -> None:
    config = train_config(preset, tmp_path)
    assert (config.rank, config.alpha, config.lr) == (64, 128, 5e-6)
    assert (config.warmup, config.steps, config.schedule) == (500, 10_000, "cosine")
    assert config.batch_size * config.grad_accum == 16
    assert (config.precision, config.gradient_checkpointing, config.beta) == ("bf16", "on", 500)


@pytest.mark.parametrize("preset", TRANSFORMERS)
def test_the_sizes_of_a_preset_fit_the_published_model(preset: str) -> None:
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**TRANSFORMERS[preset])
    if preset in BILLIONS:
        count = sum(parameter.numel() for parameter in transformer.parameters())
        assert math.isclose(count / 1e9, BILLIONS[preset], rel_tol=0.01)
    scheduler = CogVideoXDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    family = CogVideoXFamily(transformer, scheduler)
    settings = sample_settings(parsed("sample", preset)).sampler
    assert (settings.num_frames - 1) % 8 == 0, "an odd number of latent frames"
    frames = (settings.num_frames - 1) // 4 + 1
    padding = -frames % (transformer.config.patch_size_t or 1)
    latent = (frames + padding, 16, settings.height // 8, settings.width // 8)
    shapes = PairShapes(
        latent=latent,
        prompt=(settings.max_sequence_length, 4096),
        image=latent if "i2v" in preset else None,
        num_frames=settings.num_frames,
    )
    family.check(shapes)
    counted = family.loss_weight(shapes)
    assert padding == int("1.5" in preset)
    assert (counted is None) == (padding == 0)
    assert family.image_to_video == ("i2v" in preset)
