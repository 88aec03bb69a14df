"""One optimiser step: passes of its micro-batches, gradients, and the refusal of what is not finite.

Legend: B pairs, N samples of a forward pass (B of one side, or 2B: winners, then losers), X the axes of a
latent video.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.data import MicroBatch, Prefetcher
from trainer.families.base import Condition, Family
from trainer.lora import as_reference, whole
from trainer.objectives import PairErrors, preference_loss, supervised_loss
from trainer.processes import NonFiniteLossError
from trainer.reference import ReferenceCache
from trainer.schedule import learning_rate

# The backward pass of a loss; it is shown the figures first, so that it can refuse.
Backward = Callable[[Tensor, dict[str, Tensor]], None]
# Around a forward and its backward pass: whether the gradients are exchanged between processes.
Exchange = Callable[[bool], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Noised:
    """N noised samples, what is to be predicted from them, and how much each element's error counts."""

    noised_NX: Tensor
    target_NX: Tensor
    timestep_N: Tensor
    condition: Condition
    loss_weight_X: Tensor | None


def noised(family: Family, inputs: MicroBatch, clean_NX: Tensor, loss_weight_X: Tensor | None) -> Noised:
    """Winners, losers or both under the draws of their pairs, which both sides share."""
    device, sides = clean_NX.device, len(clean_NX) // len(inputs.timestep_index_B)
    timestep_N = family.timestep(inputs.timestep_index_B.to(device)).repeat(sides)
    noise_NX = inputs.noise_BX.to(device).repeat(sides, *(1 for _ in inputs.noise_BX.shape[1:]))
    noised_NX, target_NX = family.noised(clean_NX, noise_NX, timestep_N)
    condition = inputs.batch.condition
    return Noised(
        noised_NX=noised_NX,
        target_NX=target_NX,
        timestep_N=timestep_N,
        condition=condition if sides == 1 else condition.twice(),
        loss_weight_X=loss_weight_X,
    )


def per_sample_mse(family: Family, model: Any, given: Noised) -> Tensor:
    """Mean squared error of the prediction per sample, elements weighed by what they count, without one half.

    Squares are fp32, their mean fp64: an error near 1 has a spacing of 1e-7 in fp32, which beta = 500 would
    turn into visible noise of the loss.
    """
    prediction_NX = family.predict(model, given.noised_NX, given.timestep_N, given.condition)
    square_NX = (prediction_NX - given.target_NX).square()
    if given.loss_weight_X is None:
        return square_NX.flatten(1).mean(dim=1, dtype=torch.float64)
    loss_weight_X = given.loss_weight_X.to(square_NX).expand(square_NX.shape[1:])
    return (square_NX * loss_weight_X).flatten(1).sum(dim=1, dtype=torch.float64) / loss_weight_X.sum()


@dataclass(frozen=True, kw_only=True)
class PairForward:
    """How a micro-batch is computed: the objective, and whether both sides share a forward pass.

    `model` is the family's transformer, perhaps wrapped for several processes or compiled.
    """

    family: Family
    model: Any
    objective: str
    beta: float
    winner_anchor: float = 0.0
    winner_weight: float = 0.0
    loss_weight_X: Tensor | None = None
    together: bool = True

    def reference_errors(self, inputs: MicroBatch) -> Tensor:
        """errors_N of the reference, winners then losers, without a graph."""
        with torch.no_grad(), as_reference(self.family.transformer):
            return self._without_graph(inputs)

    def policy_errors(self, inputs: MicroBatch) -> Tensor:
        """errors_N of the adapted model, winners then losers, without a graph."""
        with torch.no_grad():
            return self._without_graph(inputs)

    def run(
        self,
        inputs: MicroBatch,
        reference_N: Tensor | None,
        backward: Backward,
        exchange: Exchange = lambda _: nullcontext(),
    ) -> None:
        """The forward and backward passes of a micro-batch.

        `reference_N` is computed here, first, when it is not given, so that no graph is alive while another
        adapter is on or none. Supervised training needs none.
        """
        if self.objective == "sft":
            with exchange(True):
                backward(
                    *supervised_loss(
                        per_sample_mse(self.family, self.model, self._noised(inputs, inputs.batch.winner_BX))
                    )
                )
            return
        if reference_N is None:
            reference_N = self.reference_errors(inputs)
        reference_N = reference_N.to(inputs.batch.winner_BX.device)
        if self.together:
            with exchange(True):
                policy_N = per_sample_mse(self.family, self.model, self._noised(inputs, _both(inputs)))
                backward(*self.loss(policy_N, reference_N))
        else:
            self._apart(inputs, reference_N, backward, exchange)

    def loss(self, policy_N: Tensor, reference_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The preference loss of errors that hold winners, then losers."""
        (win_B, lose_B), (reference_win_B, reference_lose_B) = policy_N.chunk(2), reference_N.chunk(2)
        pairs = PairErrors(
            policy_win_B=win_B,
            policy_lose_B=lose_B,
            reference_win_B=reference_win_B,
            reference_lose_B=reference_lose_B,
        )
        return preference_loss(self.objective, pairs, self.beta, self.winner_anchor, self.winner_weight)

    def _apart(self, inputs: MicroBatch, reference_N: Tensor, backward: Backward, exchange: Exchange) -> None:
        """Never both graphs alive: the loser's error without a graph gives the loss and its own gradient."""
        losers = self._noised(inputs, inputs.batch.loser_BX)
        with torch.no_grad():
            lose_B = per_sample_mse(self.family, self.family.transformer, losers)
        lose_B.requires_grad_()
        with exchange(False):
            win_B = per_sample_mse(self.family, self.model, self._noised(inputs, inputs.batch.winner_BX))
            backward(*self.loss(torch.cat([win_B, lose_B]), reference_N))
        slope_B = lose_B.grad
        assert slope_B is not None
        with exchange(True):
            again_B = per_sample_mse(self.family, self.model, losers)
            # The slope carries whatever `backward` scaled the loss by: this pass is not scaled again.
            (again_B * slope_B).sum().backward()  # type: ignore[no-untyped-call]

    def _without_graph(self, inputs: MicroBatch) -> Tensor:
        sides = [_both(inputs)] if self.together else [inputs.batch.winner_BX, inputs.batch.loser_BX]
        model = self.family.transformer
        return torch.cat([per_sample_mse(self.family, model, self._noised(inputs, side)) for side in sides])

    def _noised(self, inputs: MicroBatch, clean_NX: Tensor) -> Noised:
        return noised(self.family, inputs, clean_NX, self.loss_weight_X)


def _both(inputs: MicroBatch) -> Tensor:
    return torch.cat([inputs.batch.winner_BX, inputs.batch.loser_BX])


@dataclass(kw_only=True)
class OptimizerStep:
    """What a step changes and how; `reference` is set when errors of the reference were computed ahead."""

    config: TrainConfig
    accelerator: Accelerator
    compute: PairForward
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    reference: ReferenceCache | None = None

    def step(self, number: int, ahead: Prefetcher[MicroBatch]) -> dict[str, float]:
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

    def _accumulate(self, number: int, inputs: MicroBatch, *, last: bool) -> dict[str, float]:
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
