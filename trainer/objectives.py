"""What is minimised: preference and supervised objectives on per-sample errors. Legend: B pairs of a batch.

An error is the MEAN squared error of the prediction over all elements of a latent video, without one half,
winner and loser of a pair under the same noise, timestep and condition. In that mean the first latent frame
of a model that is given it may weigh more or less (`first_frame_weight`). An advantage is the reference's
error minus the policy's, positive where the policy has become better; the margin is the winner's advantage
minus the loser's, the logit beta * margin.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

# Above this logit a pair keeps less than 2 % of its gradient (sigmoid(-4) = 0.018): it has been learned.
_SATURATED_LOGIT = 4.0
_PREFERENCES = ("dpo", "ipo")


@dataclass(frozen=True, kw_only=True)
class PairErrors:
    """The errors of B pairs. Raises ValueError when the shapes differ."""

    policy_win_B: Tensor
    policy_lose_B: Tensor
    reference_win_B: Tensor
    reference_lose_B: Tensor

    def __post_init__(self) -> None:
        errors = [getattr(self, field.name) for field in fields(self)]
        shapes = {tuple(error.shape) for error in errors}
        if len(shapes) != 1 or errors[0].ndim != 1 or errors[0].numel() == 0:
            raise ValueError(
                f"the four errors must be vectors of one length >= 1, got shapes {sorted(shapes)}"
            )

    @property
    def winner_advantage_B(self) -> Tensor:
        """How much better the policy has become on the winners."""
        return self.reference_win_B - self.policy_win_B

    @property
    def loser_advantage_B(self) -> Tensor:
        """How much better the policy has become on the losers."""
        return self.reference_lose_B - self.policy_lose_B

    @property
    def margin_B(self) -> Tensor:
        """The winner's advantage minus the loser's."""
        return self.winner_advantage_B - self.loser_advantage_B


def preference_loss(
    objective: str,
    errors: PairErrors,
    beta: float,
    winner_anchor: float = 0.0,
    winner_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss over pairs, and detached scalars that describe it.

    `dpo` (Wallace et al. 2023, eq. 14): -log sigmoid(logit). `ipo` (Azar et al. 2023, eq. 17):
    (logit - 1/2)^2, which is least at a margin of 1 / (2 beta) and goes no further, where the sigmoid's loss
    has no end. `winner_anchor` adds so many times relu(-beta * winner advantage): it costs when the winner
    becomes less likely than it was, which both allow as long as the loser falls faster. `winner_weight` adds
    so many times -beta * winner advantage, which is supervised training on the winner beside the preference
    (Liu et al. 2024, arXiv 2405.16436, for language models): what is learned from the winner then outweighs
    what is learned from pushing the loser away.

    Scalars: `margin` (without beta), `accuracy` (share of pairs with a positive margin; a tie counts one
    half, so an untrained policy starts at 0.5), `winner_advantage`, `loser_advantage`, `winner_error`,
    `loser_error`, `saturated` (share of pairs whose logit is above 4). Raises ValueError for another name.
    """
    logit_B = beta * errors.margin_B
    if objective == "dpo":
        loss_B = F.softplus(-logit_B)
    elif objective == "ipo":
        loss_B = (logit_B - 0.5).square()
    else:
        raise ValueError(f"a preference objective is one of {', '.join(_PREFERENCES)}, got {objective!r}")
    if winner_anchor:
        loss_B = loss_B + winner_anchor * F.relu(-beta * errors.winner_advantage_B)
    if winner_weight:
        loss_B = loss_B - winner_weight * beta * errors.winner_advantage_B
    with torch.no_grad():
        metrics = {
            "margin": errors.margin_B.mean(),
            "accuracy": (0.5 + 0.5 * errors.margin_B.sign()).mean(),
            "winner_advantage": errors.winner_advantage_B.mean(),
            "loser_advantage": errors.loser_advantage_B.mean(),
            "winner_error": errors.policy_win_B.mean(),
            "loser_error": errors.policy_lose_B.mean(),
            "saturated": (logit_B > _SATURATED_LOGIT).to(logit_B.dtype).mean(),
        }
    return loss_B.mean(), metrics


def supervised_loss(policy_win_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The diffusion loss on winners alone, without a reference: mean error, and `winner_error`."""
    loss = policy_win_B.mean()
    return loss, {"winner_error": loss.detach()}
