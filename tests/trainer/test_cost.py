"""Predicted memory and arithmetic against closed forms, and against the same pass on real tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from trainer import cost
from trainer import setup as plan
from trainer.config import TrainConfig
from trainer.data import PairLoader
from trainer.families.base import Family, PairShapes
from trainer.families.cogvideox import CogVideoXFamily
from trainer.loop import Trainer
from trainer.setup import Plan, candidates, choose_plan

# F C H W and L D of the tiny model: 3 x 2 x 3 video tokens of a 2 x 2 patch, and 5 of text.
SHAPES = PairShapes(latent=(3, 4, 4, 6), prompt=(5, 12), image=(3, 4, 4, 6))
TOKENS = 3 * 2 * 3 + 5
SETTINGS = cost.CostSettings(
    objective="dpo",
    batch_size=2,
    rank=4,
    alpha=8,
    dtype=torch.float32,
    gradient_checkpointing=False,
    together=True,
    cached_reference=True,
)


@pytest.fixture
def family(make_transformer: Callable[..., Any], make_scheduler: Callable[[], Any]) -> Family:
    return CogVideoXFamily(make_transformer(num_layers=4), make_scheduler())


def test_parameters_and_tokens(family: Family) -> None:
    found = cost.step_cost(family, SHAPES, SETTINGS)
    assert found.parameters == sum(p.numel() for p in family.transformer.parameters())
    # Four projections of width 32 a block, two factors of rank 4 each.
    assert found.trainable == 4 * 4 * 2 * 32 * 4
    assert found.tokens == TOKENS
    assert found.weights_bytes >= 4 * (found.parameters + found.trainable)


def test_operations_are_those_of_the_matrix_products(family: Family) -> None:
    width, layers, rank = 32, 4, SETTINGS.rank
    tokens, samples = TOKENS, 2 * SETTINGS.batch_size
    projections = 4 * tokens * width * width + 2 * tokens * width * 4 * width
    attention = 2 * tokens * tokens * width
    lora = 4 * tokens * 2 * width * rank
    # A frozen matrix has one product backward (its input's gradient), a trained one two, attention two and a
    # half (scores are computed again).
    block = 2 * (2 * projections + 3 * lora + 3.5 * attention)
    found = cost.step_cost(family, SHAPES, SETTINGS)
    by_hand = layers * block * samples
    # By hand, embeddings, modulations and the final layer are missing, and the first block counts too much:
    # its input needs no gradient.
    assert 0.97 < found.flops_per_pair * SETTINGS.batch_size / by_hand < 1.05


def test_a_reference_that_is_computed_costs_a_forward_pass(family: Family) -> None:
    cached = cost.step_cost(family, SHAPES, SETTINGS)
    computed = cost.step_cost(family, SHAPES, replace(SETTINGS, cached_reference=False))
    assert 1.3 < computed.flops_per_pair / cached.flops_per_pair < 1.6


def test_checkpointing_and_sides_apart_take_less_memory(family: Family) -> None:
    def needed(**changes: Any) -> int:
        found = cost.step_cost(family, SHAPES, replace(SETTINGS, **changes))
        return found.peak_bytes - found.weights_bytes

    plain = needed()
    assert needed(together=False) < 0.75 * plain
    assert needed(gradient_checkpointing=True) < 0.6 * plain


def test_fake_tensors_take_what_real_ones_take(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = cost.step_cost(family, SHAPES, SETTINGS)

    class NoMode:
        def __init__(self, **_: Any) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(cost, "FakeTensorMode", NoMode)
    real = cost.step_cost(family, SHAPES, SETTINGS)
    assert predicted.weights_bytes == real.weights_bytes
    assert predicted.peak_bytes == pytest.approx(real.peak_bytes, rel=0.02)
    assert predicted.flops_per_pair == real.flops_per_pair


def test_the_fastest_plan_that_fits_is_taken(
    make_config: Callable[..., TrainConfig],
    make_pairs: Callable[..., Any],
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = make_config(forward="auto", gradient_checkpointing="auto")
    shapes = PairLoader(make_pairs(1), torch.device("cpu")).shapes
    costs = {one: plan.predicted(config, family, shapes, one) for one in candidates(config)}
    needs = [(found.peak_bytes - found.weights_bytes) * cost.HEADROOM for found in costs.values()]
    monkeypatch.setattr(plan, "predicted", lambda *given: costs[given[-1]])

    def chosen(free: float) -> Plan:
        monkeypatch.setattr(plan, "free_bytes", lambda _: int(free / 0.9) + 2)
        return choose_plan(config, family, shapes, torch.device("cpu"))

    assert chosen(1e12) == Plan(together=True, gradient_checkpointing=False)
    assert needs[0] > needs[1] > needs[2]
    assert chosen(needs[1]) == Plan(together=False, gradient_checkpointing=False)
    assert chosen(needs[2]) == Plan(together=True, gradient_checkpointing=True)
    with caplog.at_level(logging.WARNING):
        assert chosen(0.0) == Plan(together=False, gradient_checkpointing=True)
    assert "lower batch_size and raise grad_accum" in caplog.text


def test_a_training_keeps_its_plan(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.processes import StopRequest

    config = make_config(forward="auto", gradient_checkpointing="auto", steps=2)
    pairs = make_pairs(2)
    monkeypatch.setattr(plan, "free_bytes", lambda _: 0)
    first = Trainer(config, pairs)
    first.run(StopRequest())
    monkeypatch.setattr(plan, "free_bytes", lambda _: 10**12)
    assert Trainer(config, pairs).plan == first.plan == Plan(together=False, gradient_checkpointing=True)
    assert Trainer(replace(config, out_dir=config.out_dir / "new"), pairs).plan.together
