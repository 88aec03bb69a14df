"""Every option that is refused says which, why and what it got."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.schedule import learning_rate


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("objective", "ppo", "must be one of dpo"),
        ("schedule", "linear", "must be one of cosine, constant"),
        ("precision", "fp16", "must be one of fp32, bf16"),
        ("split", "all", "must be one of train, val, test, or none for all"),
        ("beta", 0.0, "must be a finite number > 0"),
        ("beta", math.nan, "must be a finite number > 0"),
        ("lr", -1e-4, "must be a finite number > 0"),
        ("weight_decay", -1.0, "must be a finite number >= 0"),
        ("rank", 0, "must be a whole number >= 1"),
        ("alpha", 1.5, "must be a whole number >= 1"),
        ("steps", True, "must be a whole number >= 1"),
        ("seed", -1, "must be a whole number >= 0"),
        ("seed", 2**62, "must be < 2"),
        ("threads", 0, "must be a whole number >= 1"),
        ("max_timestep", -1, "must be a whole number >= 0"),
        ("model", "", "must be what names the base model"),
        ("patience", 2, "must be none without validate_every"),
        ("reference", "winner", "must be one of start, base"),
    ],
)
def test_refused(field: str, value: Any, rule: str, make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError) as caught:
        make_config(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field} {rule}")
    assert f"got {value!r}" in message


def test_timestep_range_must_not_be_empty(make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match="max_timestep must be >= min_timestep"):
        make_config(min_timestep=500, max_timestep=400)


def test_a_tracker_that_there_is_not_is_refused(make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match=r"report_to must be one of tensorboard, wandb, .*, got 'pigeon'"):
        make_config(report_to=("tensorboard", "pigeon"))


def test_supervised_training_has_no_reference(make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match="reference must be start with objective sft"):
        make_config(objective="sft", reference="base")


def test_frozen_and_round_trips(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]
    assert TrainConfig(**config.to_json()) == config


def test_learning_rate(make_config: Callable[..., TrainConfig]) -> None:
    cosine = make_config(lr=1.0, steps=12, warmup=2)
    rates = [learning_rate(cosine, step) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.5)
    assert 0 < rates[11] < 0.05
    assert rates[2:] == sorted(rates[2:], reverse=True)
    short = make_config(lr=1.0, steps=4, warmup=500)
    assert [learning_rate(short, step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    constant = make_config(lr=1.0, steps=12, warmup=2, schedule="constant")
    assert {learning_rate(constant, step) for step in range(1, 12)} == {1.0}
