"""What a training starts from: the adapted model, its optimiser, its timesteps, the CPU threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.data import PairLoader
from trainer.families import load_family
from trainer.families.base import Family
from trainer.lora import attach_lora
from trainer.plan import DTYPES, Plan, choose_plan


def load_adapted(config: TrainConfig, loader: PairLoader, device: torch.device) -> tuple[Family, Plan]:
    """The model with a trainable adapter, in train mode. Raises UserError when the pairs do not fit it."""
    family = load_family(config.model_dir, DTYPES[config.precision])
    family.check(loader.shapes)
    plan = choose_plan(config, family, loader.shapes, device)
    attach_lora(family.transformer, config.rank, config.alpha, family.lora_targets, config.seed)
    if plan.gradient_checkpointing:
        family.transformer.enable_gradient_checkpointing()
    # Gradient checkpointing is silently off outside train mode.
    family.transformer.train()
    if config.compile:
        compile_blocks(family.transformer)
    return family, plan


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit form. Raises UserError when bitsandbytes is missing."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        optim = import_module("bitsandbytes.optim")
    except ImportError as error:
        raise UserError(
            f"optimizer adamw8bit needs bitsandbytes ({error}): pip install bitsandbytes, or take adamw"
        ) from error
    made: torch.optim.Optimizer = optim.AdamW8bit(parameters, **options)
    return made


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


def compile_blocks(transformer: Any) -> None:
    """Compile the repeated blocks where the class names them (one compilation serves all), else the whole."""
    if getattr(transformer, "_repeated_blocks", None):
        transformer.compile_repeated_blocks()
    else:
        transformer.compile()
