"""The loss against closed forms that are written out here, not taken from the code."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.dpo import dpo_loss


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
