"""What a training does to the model: it learns the preference it is given, and its opposite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.data import MicroBatch, PairLoader, draw
from trainer.loop import Trainer
from trainer.lora import lora_state
from trainer.processes import NonFiniteLossError, StopRequest
from trainer.train import train


def evaluate(trainer: Trainer, pairs: Any) -> dict[str, float]:
    """Metrics of all pairs at 16 draws that training never used."""
    loader = PairLoader(pairs, torch.device("cpu"))
    batch = loader.batch([i for i in range(len(pairs)) for _ in range(16)])
    noise, drawn = draw(999, 0, range(16 * len(pairs)), pairs.latent_shape, (0, 999))
    inputs = MicroBatch(batch=batch, noise_BX=noise, timestep_index_B=drawn)
    compute = replace(trainer.update.compute, objective="dpo")
    _, metrics = compute.loss(compute.policy_errors(inputs), compute.reference_errors(inputs))
    return {name: value.item() for name, value in metrics.items()}


def learned(config: TrainConfig, pairs: Any) -> Trainer:
    trainer = Trainer(config, pairs)
    trainer.run(StopRequest(), None)
    return trainer


@pytest.mark.parametrize(
    "objective", [{}, {"winner_anchor": 1.0}, {"objective": "ipo", "beta": 20.0}, {"cache_reference": 16}]
)
def test_overfitting_eight_pairs_and_their_opposite(
    objective: dict[str, Any], make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(8)
    options = {"steps": 160, "lr": 1e-2, "rank": 8, "batch_size": 8, "checkpoint_every": 1000} | objective
    metrics = evaluate(learned(make_config("right", **options), pairs), pairs)
    assert metrics["accuracy"] >= 0.98
    assert metrics["winner_advantage"] > 0 > metrics["loser_advantage"]
    opposite = evaluate(learned(make_config("wrong", **options), pairs.swapped()), pairs)
    assert opposite["accuracy"] <= 0.02
    assert opposite["winner_advantage"] < 0 < opposite["loser_advantage"]


def test_the_first_step_starts_at_the_reference(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    seen: list[dict[str, float]] = []
    train(make_config(steps=2), lambda _, metrics: seen.append(metrics), source=make_pairs(4))
    assert seen[0]["margin"] == 0.0
    assert seen[0]["accuracy"] == 0.5
    assert seen[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert seen[0]["grad_norm"] > 0
    assert seen[1]["margin"] != 0.0
    assert {"lr", "pairs_per_second", "winner_advantage", "loser_advantage", "saturated"} <= seen[0].keys()


def test_base_weights_stay_and_lora_is_fp32_on_bf16(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    trainer = Trainer(make_config(precision="bf16"), make_pairs(4))
    base = {n: p.clone() for n, p in trainer.family.transformer.named_parameters() if "lora_" not in n}
    trainer.run(StopRequest(), None)
    for name, parameter in trainer.family.transformer.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.float32
        else:
            assert parameter.dtype == torch.bfloat16
            assert torch.equal(parameter, base[name])
    targets = {name.split(".lora_")[0].split("attn1.")[1] for name in trainer.parameters}
    assert targets == {"to_q", "to_k", "to_v", "to_out.0"}


@pytest.mark.parametrize("other", [{"batch_size": 1, "grad_accum": 4}, {"gradient_checkpointing": "on"}])
def test_settings_that_must_agree(
    other: dict[str, Any], make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    losses: list[list[float]] = [[], []]
    for seen, options in zip(losses, ({"batch_size": 4}, {"batch_size": 4} | other), strict=True):
        # A lively beta and Adam both magnify rounding, which is all that may differ.
        config = make_config(f"out{len(options)}", lr=1e-4, beta=100.0, **options)
        train(config, lambda _, m, seen=seen: seen.append(m["loss"]), source=make_pairs(6))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(set(losses[0])) == 6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_the_optimiser_step(
    bad: float, make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(4)
    config = make_config(batch_size=1, steps=8)
    trainer = Trainer(config, pairs)
    states = [lora_state(trainer.family.transformer)]
    poisoned = pairs.rows[2]
    poisoned.winner_latents = poisoned.winner_latents.clone()
    poisoned.winner_latents[0, 0, 0, 0] = bad
    with pytest.raises(NonFiniteLossError, match=r"not finite at step \d for the pairs pair-2") as caught:
        trainer.run(StopRequest(), lambda *_: states.append(lora_state(trainer.family.transformer)))
    assert caught.value.pair_ids == ("pair-2",)
    assert caught.value.step == trainer.step + 1 == len(states)
    now = lora_state(trainer.family.transformer)
    assert all(torch.equal(now[name], states[-1][name]) for name in now)


def test_a_non_finite_gradient_stops_too(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    trainer = Trainer(make_config(), make_pairs(4))
    before = lora_state(trainer.family.transformer)
    first = next(iter(trainer.parameters.values()))
    first.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(NonFiniteLossError, match="the gradient is not finite at step 1"):
        trainer.run(StopRequest(), None)
    after = lora_state(trainer.family.transformer)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert trainer.optimizer.state_dict()["state"] == {}


def test_refusals(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], tmp_path: Any
) -> None:
    with pytest.raises(UserError, match=r"no pair shards in .*pairs: run gpa pair"):
        train(make_config())
    with pytest.raises(UserError, match="no pairs to train on"):
        train(make_config(), source=type(make_pairs(1))([]))
    with pytest.raises(UserError, match="sampled from revision r1, the model to train is revision r2"):
        train(make_config(revision="r2"), source=make_pairs(2))
    with pytest.raises(UserError, match="sampled from model tiny, the model to train is model big"):
        train(make_config(model="big"), source=make_pairs(2))
    with pytest.raises(UserError, match=r"latents of shape \[3, 5, 4, 6\]"):
        train(make_config(), source=make_pairs(2, (3, 5, 4, 6)))
    mixed = make_pairs(3)
    mixed.rows[1].loser_latents = torch.zeros(2, 4, 4, 6)
    with pytest.raises(UserError, match=r"pair-1 has loser_latents of shape \[2, 4, 4, 6\]"):
        train(make_config(), source=mixed)
    with pytest.raises(UserError, match="not within the scheduler's 0 to 999"):
        train(make_config(max_timestep=1000), source=make_pairs(2))
    assert not (tmp_path / "out" / "adapter").exists()
