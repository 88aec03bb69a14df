"""One optimiser step: micro-batches, gradients, the rate, and the refusal of what is not finite."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trainer.config import TrainConfig, learning_rate
from trainer.errors import NonFiniteLossError
from trainer.inputs import Ahead, Inputs
from trainer.reference import ReferenceCache
from trainer.sharding import whole
from trainer.step import Step


@dataclass(kw_only=True)
class Update:
    """What a step changes and how; `reference` is set when errors of the reference were computed ahead."""

    config: TrainConfig
    accelerator: Accelerator
    compute: Step
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    reference: ReferenceCache | None = None

    def step(self, number: int, ahead: Ahead[Inputs]) -> dict[str, float]:
        """Step `number` (0-based) over its micro-batches, and its figures.

        Raises NonFiniteLossError for a loss, figure or gradient that is not finite; the optimiser step is
        then not taken.
        """
        self.optimizer.zero_grad(set_to_none=True)
        count = self.config.grad_accum
        totals: dict[str, float] = {}
        pair_ids: tuple[str, ...] = ()
        for micro in range(count):
            inputs = ahead.get(number * count + micro)
            pair_ids += inputs.batch.pair_ids
            for name, value in self._accumulate(number, inputs, last=micro + 1 == count).items():
                totals[name] = totals.get(name, 0.0) + value / count
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        grad_norm = float(whole(norm))
        if not math.isfinite(grad_norm):
            raise NonFiniteLossError("the gradient", number + 1, pair_ids)
        rate = learning_rate(self.config, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return totals | {"grad_norm": grad_norm, "lr": rate}

    def _accumulate(self, number: int, inputs: Inputs, *, last: bool) -> dict[str, float]:
        """The passes of a micro-batch; gradients are exchanged between processes in the last one only."""
        found: dict[str, float] = {}

        def backward(loss: Tensor, metrics: dict[str, Tensor]) -> None:
            found.update(self._checked(number, {"loss": loss.detach(), **metrics}, inputs.batch.pair_ids))
            self.accelerator.backward(loss / self.config.grad_accum)

        def exchange(wanted: bool) -> AbstractContextManager[Any]:
            if self.accelerator.num_processes == 1:
                return nullcontext()
            if self.config.shard:
                self.compute.model.set_requires_gradient_sync(wanted and last)
                return nullcontext()
            if wanted and last:
                return nullcontext()
            context: AbstractContextManager[Any] = self.accelerator.no_sync(self.compute.model)
            return context

        reference_N = None
        if self.reference is not None and inputs.fixed is not None:
            reference_N = self.reference.of(inputs.fixed)
        self.compute.run(inputs, reference_N, backward, exchange)
        return found

    def _checked(
        self, number: int, metrics: dict[str, Tensor], pair_ids: tuple[str, ...]
    ) -> dict[str, float]:
        """The figures over all processes. Raises NonFiniteLossError.

        Before the backward pass: a process that stopped alone would leave the others waiting in it.
        """
        values = torch.stack(list(metrics.values()))
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        found = dict(zip(metrics, values.tolist(), strict=True))
        for name, value in found.items():
            # An infinite margin can hide behind a loss of zero, so every figure is looked at.
            if not math.isfinite(value):
                raise NonFiniteLossError(f"the {name}", number + 1, pair_ids)
        return found
