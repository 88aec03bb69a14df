"""The loss against closed forms that are written out here, not taken from the code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.objectives import PairErrors, preference_loss, supervised_loss


def dpo_loss(
    win: Tensor, lose: Tensor, reference_win: Tensor, reference_lose: Tensor, beta: float, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    errors = PairErrors(
        policy_win_B=win,
        policy_lose_B=lose,
        reference_win_B=reference_win,
        reference_lose_B=reference_lose,
    )
    return preference_loss(options.pop("objective", "dpo"), errors, beta, **options)


def test_equal_errors_give_log_two_and_half_accuracy() -> None:
    errors = torch.tensor([0.3, 0.7])
    loss, metrics = dpo_loss(errors, errors, errors, errors, beta=500.0)
    assert loss.item() == pytest.approx(math.log(2.0), abs=1e-7)
    assert metrics["accuracy"].item() == 0.5
    assert metrics["margin"].item() == 0.0
    assert metrics["saturated"].item() == 0.0


def test_numeric_example() -> None:
    # Pair 1: advantages .004 and -.002, margin .006, logit 3. Pair 2: -.001 and .003, margin -.004, logit -2.
    loss, metrics = dpo_loss(
        torch.tensor([0.096, 0.201]),
        torch.tensor([0.302, 0.397]),
        torch.tensor([0.100, 0.200]),
        torch.tensor([0.300, 0.400]),
        beta=500.0,
    )
    by_hand = (math.log(1 + math.exp(-3.0)) + math.log(1 + math.exp(2.0))) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-4)
    assert metrics["winner_advantage"].item() == pytest.approx(0.0015, abs=1e-6)
    assert metrics["loser_advantage"].item() == pytest.approx(0.0005, abs=1e-6)
    assert metrics["margin"].item() == pytest.approx(0.001, abs=1e-6)
    assert metrics["accuracy"].item() == 0.5
    assert metrics["winner_error"].item() == pytest.approx(0.1485, abs=1e-6)
    assert metrics["loser_error"].item() == pytest.approx(0.3495, abs=1e-6)


def test_gradient_is_beta_sigmoid_of_minus_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = [torch.rand(5, generator=generator, dtype=torch.float64) for _ in range(4)]
    win, lose = errors[0].requires_grad_(), errors[1].requires_grad_()
    loss, _ = dpo_loss(win, lose, errors[2], errors[3], beta=7.0)
    loss.backward()
    logit = 7.0 * ((errors[2] - win) - (errors[3] - lose)).detach()
    weight = 7.0 / (1 + torch.exp(logit)) / 5
    assert torch.allclose(win.grad, weight, atol=1e-12)
    assert torch.allclose(lose.grad, -weight, atol=1e-12)


def test_gradient_against_finite_differences() -> None:
    errors = tuple(torch.rand(3, dtype=torch.float64) for _ in range(4))
    for tensor in errors:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *e: dpo_loss(*e, beta=3.0)[0], errors)


def test_saturation_counts_learned_pairs_only() -> None:
    reference = torch.zeros(4)
    margin = torch.tensor([5.0, 3.9, -5.0, 4.1])
    _, metrics = dpo_loss(-margin, reference, reference, reference, beta=1.0)
    assert metrics["saturated"].item() == 0.5
    assert metrics["accuracy"].item() == 0.75


def test_huge_logits_stay_finite() -> None:
    zero = torch.zeros(2)
    loss, _ = dpo_loss(torch.tensor([1e6, -1e6]), zero, zero, zero, beta=500.0)
    assert loss.item() == pytest.approx(2.5e8)


def test_metrics_carry_no_gradient() -> None:
    win = torch.rand(2, requires_grad=True)
    _, metrics = dpo_loss(win, torch.rand(2), torch.rand(2), torch.rand(2), beta=1.0)
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("shape", [(3,), (2, 1), (0,)])
def test_shapes_must_agree(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="vectors of one length"):
        dpo_loss(torch.zeros(shape), torch.zeros(2), torch.zeros(2), torch.zeros(2), beta=1.0)


def test_ipo_is_least_at_a_margin_of_half_over_beta_and_has_its_closed_form() -> None:
    # Margins .006 and -.004 at beta 500: logits 3 and -2, losses 6.25 and 6.25.
    errors = (
        torch.tensor([0.096, 0.201]),
        torch.tensor([0.302, 0.397]),
        torch.tensor([0.100, 0.200]),
        torch.tensor([0.300, 0.400]),
    )
    loss, metrics = dpo_loss(*errors, beta=500.0, objective="ipo")
    assert loss.item() == pytest.approx(((3.0 - 0.5) ** 2 + (-2.0 - 0.5) ** 2) / 2, rel=1e-4)
    assert metrics["margin"].item() == pytest.approx(0.001, abs=1e-6)
    zero = torch.zeros(1, dtype=torch.float64)
    win = torch.tensor([-1 / (2 * 500.0)], dtype=torch.float64, requires_grad=True)
    least, _ = dpo_loss(win, zero, zero, zero, beta=500.0, objective="ipo")
    least.backward()
    assert least.item() == pytest.approx(0.0, abs=1e-12)
    assert win.grad is not None
    assert win.grad.item() == pytest.approx(0.0, abs=1e-9)


def test_an_anchor_costs_only_winners_that_became_worse() -> None:
    # Both advantages negative, the loser's more: the margin is positive, yet the winner has lost .002.
    errors = (
        torch.tensor([0.102, 0.098]),
        torch.tensor([0.304, 0.304]),
        torch.full((2,), 0.1),
        torch.full((2,), 0.3),
    )
    plain, _ = dpo_loss(*errors, beta=500.0)
    anchored, metrics = dpo_loss(*errors, beta=500.0, winner_anchor=2.0)
    assert (anchored - plain).item() == pytest.approx(2.0 * 500.0 * 0.002 / 2, rel=1e-3)
    assert metrics["accuracy"].item() == 1.0


def test_a_weight_on_winners_is_supervised_training_beside_the_preference() -> None:
    policy_win = torch.tensor([0.12, 0.09], dtype=torch.float64, requires_grad=True)
    others = [torch.full((2,), value, dtype=torch.float64) for value in (0.3, 0.1, 0.3)]
    plain, _ = dpo_loss(policy_win, *others, beta=500.0)
    (alone,) = torch.autograd.grad(plain, policy_win)
    both, _ = dpo_loss(policy_win, *others, beta=500.0, winner_weight=0.5)
    (together,) = torch.autograd.grad(both, policy_win)
    supervised, _ = supervised_loss(policy_win)
    (winners,) = torch.autograd.grad(supervised, policy_win)
    torch.testing.assert_close(together, alone + 0.5 * 500.0 * winners)


def test_gradients_of_ipo_and_the_anchor_against_finite_differences() -> None:
    errors = tuple(torch.rand(3, dtype=torch.float64) for _ in range(4))
    for tensor in errors:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *e: dpo_loss(*e, beta=3.0, objective="ipo")[0], errors)
    assert torch.autograd.gradcheck(lambda *e: dpo_loss(*e, beta=3.0, winner_anchor=0.7)[0], errors)


def test_supervised_training_is_the_mean_error_of_winners() -> None:
    errors = torch.tensor([0.1, 0.3], requires_grad=True)
    loss, metrics = supervised_loss(errors)
    loss.backward()
    assert loss.item() == pytest.approx(0.2)
    assert errors.grad is not None
    assert errors.grad.tolist() == [0.5, 0.5]
    assert set(metrics) == {"winner_error"}


def test_an_unknown_objective_is_named() -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match="one of dpo, ipo, got 'kto'"):
        dpo_loss(zero, zero, zero, zero, beta=1.0, objective="kto")
