"""One preference step: draws, errors of winner and loser, loss.

Legend: B pairs, N = 2B samples (winners, then losers), F latent frames, C latent channels, H W latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data import PairBatch, derived_seed
from trainer.dpo import dpo_loss
from trainer.families import Family
from trainer.lora import adapter_disabled


def draw(
    seed: int, step: int, slots: Sequence[int], latent_shape: Sequence[int], timesteps: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(noise_BFCHW fp32, timestep_B) of the pairs at these slots of a step's global batch.

    Each is a function of (seed, step, slot) alone, on the CPU, so that neither resuming nor the number of
    processes nor the size of a micro-batch changes it. `timesteps` are the first and last one allowed.
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
    noised_NFCHW: Tensor,
    target_NFCHW: Tensor,
    timestep_N: Tensor,
    condition: tuple[Tensor, Tensor | None],
) -> Tensor:
    """Mean squared error of the prediction per sample over all elements, without one half.

    Squares are fp32, their mean fp64: an error near 1 has a spacing of 1e-7 in fp32, which beta = 500 would
    turn into visible noise of the loss.
    """
    prompt_NLD, image_NFCHW = condition
    prediction_NFCHW = family.predict(model, noised_NFCHW, timestep_N, prompt_NLD, image_NFCHW)
    return (prediction_NFCHW - target_NFCHW).square().flatten(1).mean(dim=1, dtype=torch.float64)


def preference_loss(
    family: Family, model: Any, batch: PairBatch, noise_BFCHW: Tensor, timestep_B: Tensor, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The DPO loss of a batch and its metrics: one forward of the reference, one of the policy.

    Winner and loser go through the model together and share noise, timestep and condition. The reference is
    computed first, so that no graph is alive while the adapter is disabled.
    """
    noise_BFCHW = noise_BFCHW.to(batch.winner_BFCHW.device)
    timestep_N = _twice(timestep_B.to(batch.winner_BFCHW.device))
    clean_NFCHW = torch.cat([batch.winner_BFCHW, batch.loser_BFCHW])
    noised_NFCHW, target_NFCHW = family.noised(clean_NFCHW, _twice(noise_BFCHW), timestep_N)
    image = None if batch.image_BFCHW is None else _twice(batch.image_BFCHW)
    condition = (_twice(batch.prompt_BLD), image)
    with torch.no_grad(), adapter_disabled(family.transformer):
        reference_N = errors(family, family.transformer, noised_NFCHW, target_NFCHW, timestep_N, condition)
    policy_N = errors(family, model, noised_NFCHW, target_NFCHW, timestep_N, condition)
    policy_win_B, policy_lose_B = policy_N.chunk(2)
    reference_win_B, reference_lose_B = reference_N.chunk(2)
    return dpo_loss(policy_win_B, policy_lose_B, reference_win_B, reference_lose_B, beta)


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])
