"""What a training says while it runs: how it begins, a line of its steps, and what was learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from jobs.progress import ConsoleProgress, TrainingProgress
from trainer.config import TrainConfig
from trainer.saving.saved import TrainResult, processes

# Beyond these a preference of a few hundred pairs is known by heart: the training's margin still grows, that
# of held-out pairs falls.
_MANY_EPOCHS = 20
_SHOWN = {"loss": "loss", "margin": "margin", "accuracy": "accuracy", "val/loss": "held-out loss", "lr": "lr"}


def beginning(config: TrainConfig, pairs: int, done: int) -> list[str]:
    """The lines before the first step of a training that has done `done` steps."""
    per_step = config.batch_size * config.grad_accum * processes()
    epochs = config.steps * per_step / pairs
    lines = [f"{pairs} pairs, {config.steps} steps of {per_step}: {epochs:.2g} epochs"]
    if epochs > _MANY_EPOCHS:
        lines.append(
            f"warning: every pair is seen {epochs:.0f} times, and beyond about {_MANY_EPOCHS} an adapter "
            "learns the pairs by heart instead of what they have in common: take fewer --steps or more "
            "pairs, and watch held-out ones (--validate-every)"
        )
    if config.warmup > config.steps:
        lines.append(
            f"the warm-up of {config.warmup} steps is longer than the training: it takes all of its steps"
        )
    if config.winner_weight:
        lines.append("the loss has no lower bound with --winner-weight: below 0 is no error")
    if done:
        lines.append(f"train-dpo: {done} of {config.steps} steps are there, {config.steps - done} to do")
    return lines


def learned(result: TrainResult, config: TrainConfig) -> str | None:
    """What a training learned, by its last figures; None where none were kept."""
    metrics = result.metrics
    if "accuracy" in metrics:
        reference = "the adapter it continues" if config.measures_from_start else "the base"
        held_out = f" and {metrics['val/accuracy']:.0%} of held-out ones" if "val/accuracy" in metrics else ""
        return (
            f"learned: {metrics['accuracy']:.0%} of the last pairs{held_out} are told apart better than by "
            f"{reference} (50% is nothing learned); margin {metrics['margin']:+.2g}"
        )
    if "winner_error" in metrics:
        held_out = f", of held-out ones {metrics['val/loss']:.4g}" if "val/loss" in metrics else ""
        return f"learned: the error of the last winners is {metrics['winner_error']:.4g}{held_out}"
    return None


def end_of(result: TrainResult) -> str:
    """Which adapter there is, and why of so many steps."""
    ending = result.ending
    text = f"adapter after {result.steps} steps: {result.adapter_dir}"
    if ending.by == "finish":
        return f"ended after {ending.after} of {ending.of} steps\n{text}"
    if ending.by == "patience":
        return (
            f"ended after {ending.after} of {ending.of} steps: the held-out loss had not fallen in "
            f"{ending.patience} looks; the adapter is that of the best\n{text}"
        )
    return text


def say_beginning(config: TrainConfig) -> Callable[[int, int], None]:
    """What tells the lines of `beginning` on stderr."""

    def say(pairs: int, done: int) -> None:
        for line in beginning(config, pairs, done):
            click.echo(line, err=True)

    return say


def step_reporter(progress: TrainingProgress, steps: int) -> Callable[[int, dict[str, float]], None]:
    """What shows a step with its figures."""

    def report(step: int, metrics: dict[str, float]) -> None:
        shown = {said: metrics[name] for name, said in _SHOWN.items() if name in metrics}
        progress.show("train-dpo", step, steps, shown)

    return report


def reference_reporter() -> Callable[[int, int], Any]:
    """What shows the errors of the reference that are computed ahead."""
    progress = ConsoleProgress("draws")
    last: list[int] = []

    def report(done: int, count: int) -> None:
        if not last:
            progress.start("reference", count, 0)
        progress.advance(done - (last.pop() if last else 0), 0)
        last.append(done)
        if done == count:
            progress.stop()

    return report
