"""The Diffusion-DPO loss on per-sample errors. Shapes: B pairs of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Above this logit a pair keeps less than 2 % of its gradient (sigmoid(-4) = 0.018): it has been learned.
SATURATED_LOGIT = 4.0


def dpo_loss(
    policy_win_B: Tensor,
    policy_lose_B: Tensor,
    reference_win_B: Tensor,
    reference_lose_B: Tensor,
    beta: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Diffusion-DPO (Wallace et al. 2023, eq. 14): -log sigmoid(beta * (winner advantage - loser advantage)).

    Every argument is an error per sample: the MEAN squared error of the prediction over all elements, without
    one half, winner and loser of a pair under the same noise, timestep and condition. An advantage is the
    reference's error minus the policy's, positive where the policy has become better than the reference.

    Returns the scalar loss (mean over pairs) and detached scalars: `margin` (mean winner minus loser
    advantage, without beta), `accuracy` (share of pairs with a positive margin, relative to the reference; a
    tie counts one half, so an untrained policy starts at 0.5), `winner_advantage`, `loser_advantage`,
    `winner_error`, `loser_error`, `saturated` (share of pairs whose logit is above 4).
    Raises ValueError when the shapes differ.
    """
    shapes = {tuple(x.shape) for x in (policy_win_B, policy_lose_B, reference_win_B, reference_lose_B)}
    if len(shapes) != 1 or policy_win_B.ndim != 1 or policy_win_B.numel() == 0:
        raise ValueError(f"the four errors must be vectors of one length >= 1, got shapes {sorted(shapes)}")
    winner_advantage_B = reference_win_B - policy_win_B
    loser_advantage_B = reference_lose_B - policy_lose_B
    margin_B = winner_advantage_B - loser_advantage_B
    logit_B = beta * margin_B
    with torch.no_grad():
        metrics = {
            "margin": margin_B.mean(),
            "accuracy": (0.5 + 0.5 * margin_B.sign()).mean(),
            "winner_advantage": winner_advantage_B.mean(),
            "loser_advantage": loser_advantage_B.mean(),
            "winner_error": policy_win_B.mean(),
            "loser_error": policy_lose_B.mean(),
            "saturated": (logit_B > SATURATED_LOGIT).to(logit_B.dtype).mean(),
        }
    return F.softplus(-logit_B).mean(), metrics
