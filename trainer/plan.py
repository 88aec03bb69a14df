"""Fitting a step into memory: gradient checkpointing, and whether winner and loser share a forward pass."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from trainer.config import TrainConfig
from trainer.cost import HEADROOM, CostSettings, StepCost, step_cost
from trainer.families.base import Family, PairShapes
from trainer.files import write_json

logger = logging.getLogger(__name__)

PLAN_NAME = "plan.json"
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
    )
    return step_cost(family, shapes, settings)


def choose_plan(config: TrainConfig, family: Family, shapes: PairShapes, device: torch.device) -> Plan:
    """The fastest plan that fits into free memory, or the smallest when none does, with a warning.

    `family` is loaded already, so its weights are no longer part of what must fit. A training keeps the plan
    it started with: another machine state must not change the last bits of a resumed one.
    """
    open_to = candidates(config)
    kept = _read(config.out_dir / PLAN_NAME)
    if kept in open_to:
        return kept
    return open_to[0] if len(open_to) == 1 else _first_that_fits(config, family, shapes, device, open_to)


def write_plan(plan: Plan, out_dir: Path) -> None:
    """Keep the plan for a resumed training."""
    write_json(out_dir / PLAN_NAME, vars(plan))


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
            logger.info("%s: needs %.2f of %.2f GiB free", plan, needed / 2**30, free / 2**30)
            return plan
    logger.warning(
        "a step is predicted to need %.1f GiB beside the weights, %.1f GiB are free: lower batch_size and "
        "raise grad_accum if it runs out of memory",
        needed / 2**30,
        free / 2**30,
    )
    return open_to[-1]


def _read(path: Path) -> Plan | None:
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
