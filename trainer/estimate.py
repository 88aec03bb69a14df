"""What a training would be, told before a weight is loaded: pairs, memory, arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.data import PairLoader, PairSource, open_pairs, require_same_model
from trainer.families import load_family
from trainer.plan import DTYPES, Plan, choose_plan, free_bytes, predicted


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
            f"{self.parameters:,} parameters, {self.trainable:,} trained "
            f"({self.trainable / self.parameters:.2%}), {self.tokens:,} tokens a sample\n"
            f"step: {self.flops_per_step:.3g} FLOP, {self.peak_bytes / gib:.2f} GiB at the peak, of it "
            f"{self.weights_bytes / gib:.2f} weights ({self.free_bytes / gib:.2f} free here)\n"
            f"{how}, gradient checkpointing {again}{ahead}"
        )


def estimate(config: TrainConfig, source: PairSource | None = None) -> Estimate:
    """Predict a training of one process. Raises UserError for pairs or a model that do not fit."""
    pairs = open_pairs(config.pairs_dir, config.split, config.max_pairs) if source is None else source
    require_same_model(pairs, config.model, config.revision)
    shapes = PairLoader(pairs, torch.device("cpu")).shapes
    family = load_family(config.model_dir, DTYPES[config.precision], weights=False)
    family.check(shapes)
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
