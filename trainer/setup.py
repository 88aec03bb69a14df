"""What a training starts from: the adapted model, its timesteps, the CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.data import PairLoader
from trainer.families import Family, load_family
from trainer.lora import attach_lora

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_adapted(config: TrainConfig, loader: PairLoader) -> Family:
    """The model with a trainable adapter, in train mode. Raises UserError when the pairs do not fit it."""
    family = load_family(config.model_dir, _DTYPES[config.precision])
    family.check(loader.shapes)
    attach_lora(family.transformer, config.rank, config.alpha, family.lora_targets, config.seed)
    if config.gradient_checkpointing:
        family.transformer.enable_gradient_checkpointing()
    # Gradient checkpointing is silently off outside train mode.
    family.transformer.train()
    return family


def timestep_range(config: TrainConfig, family: Family) -> tuple[int, int]:
    """The first and last timestep to draw. Raises UserError when the scheduler has not all of them."""
    last = family.timesteps - 1
    high = last if config.max_timestep is None else config.max_timestep
    if high > last or config.min_timestep > high:
        raise UserError(
            f"timesteps {config.min_timestep} to {high} are not within the scheduler's 0 to {last}: "
            "change min_timestep and max_timestep"
        )
    return config.min_timestep, high


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Set torch's CPU threads inside, and put the number back."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
