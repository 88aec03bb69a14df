"""What a training starts from, how a step is fitted into memory, and what it would take, told beforehand."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.cost import HEADROOM, CostSettings, StepCost, step_cost
from trainer.data import PairLoader, PairSource, open_pairs, require_same_model
from trainer.families import load_family
from trainer.families.base import Family, PairShapes
from trainer.lora import attach_lora, attach_reference, load_lora_state
from trainer.saving.checkpoint import write_json
from trainer.saving.start import Start, find_start
from trainer.watching.trackers import require_trackers

_logger = logging.getLogger(__name__)

_PLAN_NAME = "plan.json"
# Of the memory that is free now: the rest is for what else happens on the machine.
_USABLE = 0.9
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a micro-batch is computed."""

    together: bool
    gradient_checkpointing: bool


def candidates(config: TrainConfig) -> list[Plan]:
    """What the configuration leaves open, fastest first: checkpointing repeats more than going apart."""
    together = {"auto": (True, False), "together": (True,), "apart": (False,)}[config.forward]
    checkpointing = {"auto": (False, True), "on": (True,), "off": (False,)}[config.gradient_checkpointing]
    if config.objective == "sft":
        together = (True,)
    return [
        Plan(together=both, gradient_checkpointing=repeat) for repeat in checkpointing for both in together
    ]


def predicted(config: TrainConfig, family: Family, shapes: PairShapes, plan: Plan) -> StepCost:
    """The cost of a micro-batch under a plan."""
    settings = CostSettings(
        objective=config.objective,
        batch_size=config.batch_size,
        rank=config.rank,
        alpha=config.alpha,
        dtype=DTYPES[config.precision],
        gradient_checkpointing=plan.gradient_checkpointing,
        together=plan.together,
        cached_reference=config.cache_reference > 0,
        first_frame_weight=config.first_frame_weight,
        frozen_start=config.measures_from_start,
    )
    return step_cost(family, shapes, settings)


def choose_plan(config: TrainConfig, family: Family, shapes: PairShapes, device: torch.device) -> Plan:
    """The fastest plan that fits into free memory, or the smallest when none does, with a warning.

    `family` is loaded already, so its weights are no longer part of what must fit. A training keeps the plan
    it started with, as long as its micro-batches are as large: another machine state must not change the last
    bits of a resumed one.
    """
    open_to = candidates(config)
    kept = _read(config.out_dir / _PLAN_NAME, config.batch_size)
    if kept in open_to:
        return kept
    return open_to[0] if len(open_to) == 1 else _first_that_fits(config, family, shapes, device, open_to)


def write_plan(plan: Plan, config: TrainConfig) -> None:
    """Keep the plan for a resumed training."""
    write_json(config.out_dir / _PLAN_NAME, vars(plan) | {"batch_size": config.batch_size})


def free_bytes(device: torch.device) -> int:
    """Memory that a training could take on this device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _first_that_fits(
    config: TrainConfig, family: Family, shapes: PairShapes, device: torch.device, open_to: list[Plan]
) -> Plan:
    free = free_bytes(device) * _USABLE
    for plan in open_to:
        cost = predicted(config, family, shapes, plan)
        needed = (cost.peak_bytes - cost.weights_bytes) * HEADROOM
        if needed <= free:
            _logger.info("%s: needs %.2f of %.2f GiB free", plan, needed / 2**30, free / 2**30)
            return plan
    _logger.warning(
        "a step is predicted to need %.1f GiB beside the weights, %.1f GiB are free: lower batch_size and "
        "raise grad_accum if it runs out of memory",
        needed / 2**30,
        free / 2**30,
    )
    return open_to[-1]


def _read(path: Path, batch_size: int) -> Plan | None:
    """The plan that was kept; None for micro-batches of another size, which need other memory."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Plan(**kept) if kept.pop("batch_size", batch_size) == batch_size else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Counts of a training, and the predicted cost of a step of one process; memory in bytes."""

    pairs: int
    steps: int
    epochs: float
    tokens: int
    parameters: int
    trainable: int
    weights_bytes: int
    peak_bytes: int
    free_bytes: int
    flops_per_step: float
    reference_flops: float
    plan: Plan

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {**vars(self), "plan": vars(self.plan)}

    def __str__(self) -> str:
        gib = 2.0**30
        how = "winner and loser " + ("together" if self.plan.together else "apart")
        again = "on" if self.plan.gradient_checkpointing else "off"
        ahead = f"\nahead: {self.reference_flops:.3g} FLOP for the reference" if self.reference_flops else ""
        return (
            f"{self.pairs} pairs, {self.steps} steps, {self.epochs:.3g} epochs\n"
            f"{self.parameters:,} parameters of the model, {self.trainable:,} of the adapter, which is "
            f"trained; {self.tokens:,} tokens a sample\n"
            f"step: {self.flops_per_step:.3g} FLOP, {self.peak_bytes / gib:.2f} GiB at the peak, of it "
            f"{self.weights_bytes / gib:.2f} weights ({self.free_bytes / gib:.2f} free here)\n"
            f"{how}, gradient checkpointing {again}{ahead}"
        )


def estimate(config: TrainConfig, source: PairSource | None = None) -> Estimate:
    """Predict a training of one process. Raises UserError for pairs or a model that do not fit."""
    pairs = open_pairs(config.pairs_dir, config.split, config.max_pairs) if source is None else source
    require_same_model(pairs, config.model, config.revision)
    shapes = PairLoader(pairs, torch.device("cpu")).shapes
    family = shell_of(config)
    require_fit(config, family, shapes)
    there = torch.cuda.is_available() and config.device != "cpu"
    device = torch.device("cuda" if there else "cpu")
    plan = choose_plan(config, family, shapes, device)
    cost = predicted(config, family, shapes, plan)
    per_step = config.batch_size * config.grad_accum
    draws = len(pairs) * config.cache_reference
    return Estimate(
        pairs=len(pairs),
        steps=config.steps,
        epochs=config.steps * per_step / len(pairs),
        tokens=cost.tokens,
        parameters=cost.parameters,
        trainable=cost.trainable,
        weights_bytes=cost.weights_bytes,
        peak_bytes=cost.peak_bytes,
        free_bytes=free_bytes(device),
        flops_per_step=cost.flops_per_pair * per_step,
        reference_flops=cost.forward_flops_per_pair * draws,
        plan=plan,
    )


def require_fit(config: TrainConfig, family: Family, shapes: PairShapes) -> Start | None:
    """The adapter to continue from; `family` needs no weights.

    Raises UserError when pairs, adapter or options do not fit the model.
    """
    family.check(shapes)
    timestep_range(config, family)
    family.loss_weight(shapes, config.first_frame_weight)
    return find_start(config, family)


def shell_of(config: TrainConfig) -> Family:
    """The model without its weights."""
    return load_family(config.model_dir, DTYPES[config.precision], weights=False)


def load_adapted(
    config: TrainConfig, loader: PairLoader, device: torch.device, start: Start | None
) -> tuple[Family, Plan]:
    """The model with a trainable adapter, in train mode."""
    family = load_family(config.model_dir, DTYPES[config.precision])
    plan = choose_plan(config, family, loader.shapes, device)
    attach_lora(family.transformer, config.rank, config.alpha, family.lora_targets, config.seed)
    if start is not None:
        load_lora_state(family.transformer, start.values())
        if config.measures_from_start:
            attach_reference(family.transformer, config.rank, config.alpha, family.lora_targets)
    if plan.gradient_checkpointing:
        family.transformer.enable_gradient_checkpointing()
    # Gradient checkpointing is silently off outside train mode.
    family.transformer.train()
    if config.compile:
        compile_blocks(family.transformer)
    return family, plan


def require_installed(config: TrainConfig) -> None:
    """Raise UserError, before weights are loaded, when optimiser or trackers need what is not installed."""
    require_trackers(config)
    if config.optimizer != "adamw":
        _eight_bit()


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit form. Raises UserError when bitsandbytes is missing."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    made: torch.optim.Optimizer = _eight_bit().AdamW8bit(parameters, **options)
    return made


def _eight_bit() -> Any:
    try:
        return import_module("bitsandbytes.optim")
    except ImportError as error:
        raise UserError(
            f"optimizer adamw8bit needs bitsandbytes ({error}): pip install bitsandbytes, or take adamw"
        ) from error


def timestep_range(config: TrainConfig, family: Family) -> tuple[int, int]:
    """The first and last timestep to draw. Raises UserError when the scheduler has not all of them."""
    last = family.timesteps - 1
    high = last if config.max_timestep is None else config.max_timestep
    if high > last or config.min_timestep > high:
        raise UserError(
            f"timesteps {config.min_timestep} to {high} are not within the scheduler's 0 to {last}: "
            "change `min_timestep` and `max_timestep`"
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
