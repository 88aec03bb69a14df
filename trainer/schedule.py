"""The learning rate over the steps of a training, and over those of one that goes on with more of them."""

from __future__ import annotations

import dataclasses
import math

from trainer.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of the 0-based step: linear warm-up, then constant or a half cosine towards zero.

    A warm-up that is longer than the training takes all of its steps.
    """
    warmup = min(config.warmup, config.steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def continued(schedule: list[dict[str, int]], config: TrainConfig, done: int) -> list[dict[str, int]]:
    """From which step on the rate follows the schedule of how many steps, for a training that goes on.

    `schedule` is what it was for the `done` steps before, empty where the rate does not depend on the number.
    One entry is left where every rate so far was what it would have been.
    """
    asked = {"from_step": 0, "steps": config.steps}
    parts = [(one["from_step"], dataclasses.replace(config, steps=one["steps"])) for one in schedule]

    def rate(step: int) -> float:
        return learning_rate([part for first, part in parts if first <= step][-1], step)

    if not schedule or all(rate(step) == learning_rate(config, step) for step in range(done)):
        return [asked]
    if schedule[-1]["steps"] == config.steps:
        return schedule
    return [*(one for one in schedule if one["from_step"] < done), asked | {"from_step": done}]
