"""One preference step: draws, errors of winner and loser, loss.

Legend: B pairs, N = 2B samples (winners, then losers), X the axes of a latent video.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data import PairBatch, derived_seed
from trainer.dpo import dpo_loss
from trainer.families import Family
from trainer.families.base import Condition
from trainer.lora import adapter_disabled


def draw(
    seed: int, step: int, slots: Sequence[int], latent_shape: Sequence[int], timesteps: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(noise_BX fp32, drawn_B long) of the pairs at these slots of a step's global batch.

    Each is a function of (seed, step, slot) alone, on the CPU, so that neither resuming nor the number of
    processes nor the size of a micro-batch changes it. `timesteps` are the first and last training step
    allowed.
    """
    low, high = timesteps
    noise, chosen = [], []
    for slot in slots:
        generator = torch.Generator().manual_seed(derived_seed(seed, "draw", step, slot))
        chosen.append(torch.randint(low, high + 1, (), generator=generator))
        noise.append(torch.randn(tuple(latent_shape), generator=generator))
    return torch.stack(noise), torch.stack(chosen)


def errors(
    family: Family,
    model: Any,
    noised_NX: Tensor,
    target_NX: Tensor,
    timestep_N: Tensor,
    condition: Condition,
    counted_X: Tensor | None,
) -> Tensor:
    """Mean squared error of the prediction per sample over the elements that count, without one half.

    Squares are fp32, their mean fp64: an error near 1 has a spacing of 1e-7 in fp32, which beta = 500 would
    turn into visible noise of the loss.
    """
    square_NX = (family.predict(model, noised_NX, timestep_N, condition) - target_NX).square()
    if counted_X is None:
        return square_NX.flatten(1).mean(dim=1, dtype=torch.float64)
    counted_X = counted_X.to(square_NX).expand(square_NX.shape[1:])
    return (square_NX * counted_X).flatten(1).sum(dim=1, dtype=torch.float64) / counted_X.sum()


def preference_loss(
    family: Family,
    model: Any,
    batch: PairBatch,
    noise_BX: Tensor,
    drawn_B: Tensor,
    beta: float,
    counted_X: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The DPO loss of a batch and its metrics: one forward of the reference, one of the policy.

    Winner and loser go through the model together and share noise, timestep and condition. The reference is
    computed first, so that no graph is alive while the adapter is disabled.
    """
    noise_BX = noise_BX.to(batch.winner_BX.device)
    timestep_N = _twice(family.timestep(drawn_B.to(batch.winner_BX.device)))
    clean_NX = torch.cat([batch.winner_BX, batch.loser_BX])
    noised_NX, target_NX = family.noised(clean_NX, _twice(noise_BX), timestep_N)
    inputs = (noised_NX, target_NX, timestep_N, batch.condition.twice(), counted_X)
    with torch.no_grad(), adapter_disabled(family.transformer):
        reference_N = errors(family, family.transformer, *inputs)
    policy_N = errors(family, model, *inputs)
    policy_win_B, policy_lose_B = policy_N.chunk(2)
    reference_win_B, reference_lose_B = reference_N.chunk(2)
    return dpo_loss(policy_win_B, policy_lose_B, reference_win_B, reference_lose_B, beta)


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])
