"""Shared by all trainings of the world: the loop, optimisers, resumable state, curves as JSON lines."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

# Quintic Newton-Schulz coefficients of Muon (Jordan et al., 2024).
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
CURVE_EVERY = 20  # steps whose mean makes an entry of a curve
# The loss of the batch that a generator draws, and what the curve shows of it.
Loss: TypeAlias = Callable[[torch.Generator], tuple[Tensor, dict[str, float]]]
# Told the steps done and the values of the curve.
Report: TypeAlias = Callable[[int, dict[str, float]], None]


def orthogonalise(matrices_NRC: Tensor, steps: int = 5) -> Tensor:
    """Approximately the nearest semi-orthogonal matrix of each of a stack, in the dtype given."""
    a, b, c = _COEFFICIENTS
    tall = matrices_NRC.shape[-2] > matrices_NRC.shape[-1]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix; matrices of one shape are handled as a stack, in fp32.

    `lr` is the root mean square size of the elements of an update.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01
    ):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon.step: closures are not supported, got one; call backward() before step()")
        for group in self.param_groups:
            stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    stacks.setdefault(tuple(param.flatten(1).shape), []).append(param)
            for params in stacks.values():
                self._update(params, group)

    def _update(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = []
        for param in params:
            state = self.state[param]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(param)
            gradient = param.grad
            assert gradient is not None
            buffer = state["momentum"].lerp_(gradient, 1 - group["momentum"])
            directions.append(torch.lerp(gradient, buffer, group["momentum"]).flatten(1))
        updates = orthogonalise(torch.stack(directions))
        size = math.sqrt(max(updates.shape[-2:])) * group["lr"]
        for param, update in zip(params, updates, strict=True):
            param.mul_(1 - group["lr"] * group["decay"]).sub_(update.view_as(param), alpha=size)


def build_optimizers(
    model: nn.Module, muon_lr: float, adam_lr: float, decay: float = 0.01
) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices and convolutions, AdamW for vectors, embeddings and thin matrices."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        thin = param.ndim < 2 or min(param.flatten(1).shape) < 16 or "embed" in name
        (others if thin else matrices).append(param)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=muon_lr, decay=decay))
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def schedule(step: int, steps: int, warmup: int = 50) -> float:
    """Factor of the peak rate: linear warm-up, then a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group to `factor` times its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def _take_step(
    loss: Tensor,
    optimizers: list[torch.optim.Optimizer],
    model_name: str,
    step: int,
    clip: Iterable[nn.Parameter] | None = None,
) -> None:
    """One update by every optimizer; the gradient of the parameters in `clip` is first bounded to norm 1.

    Raises FloatingPointError, before anything is changed, for a loss that is not finite.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"{model_name} training: the loss is {loss.item()} at step {step}; lower the rates"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(clip, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


class WeightAverage:
    """Exponential moving average of a model's floating-point state, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def to(self, device: str) -> None:
        """Moves the average to a device."""
        self.tensors = {name: value.to(device) for name, value in self.tensors.items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the weights of `model` after optimiser step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)


class Curve:
    """A training curve on disk, one JSON object a line; entries after `step` are dropped when resuming."""

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [entry for entry in read_curve(path) if entry["step"] <= step] if path.exists() else []
        path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def add(self, step: int, **values: float) -> None:
        """Appends the values measured at `step`."""
        entry = {"step": step, **{name: round(float(value), 6) for name, value in values.items()}}
        with self.path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The entries of a curve written by `Curve`."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def save_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)
    temporary.replace(path)


def save_state(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    **counters: float,
) -> None:
    """All that resuming needs in one safetensors file: weights, their average, optimiser moments, step."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.tensors.items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer{number}.{index}.{name}"] = torch.as_tensor(value)
    save_safetensors(path, tensors, {"state": json.dumps({"step": step, **counters})})


def _load_state(
    path: Path, model: nn.Module, average: WeightAverage, optimizers: list[torch.optim.Optimizer]
) -> dict[str, float]:
    """Restores what `save_state` wrote into the objects given; returns the step and the counters."""
    with safe_open(path, framework="pt") as stream:
        counters: dict[str, float] = json.loads(stream.metadata()["state"])
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    model.load_state_dict(_under(tensors, "model."))
    average.tensors = _under(tensors, "average.")
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, f"optimizer{number}.").items():
            index, field = name.split(".", 1)
            states.setdefault(int(index), {})[field] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    return counters


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a model is trained, and where its state and its curve lie; `decay` is that of the average.

    clip: the gradient is bounded to norm 1.
    """

    name: str
    state: Path
    curve: Path
    steps: int
    seed: int
    save_every: int
    muon_lr: float
    adam_lr: float
    decay: float = 0.998
    clip: bool = False
    device: str = "cpu"


def train_model(
    model: nn.Module,
    course: Course,
    loss: Loss,
    report: Report | None = None,
    saved: Callable[[WeightAverage], None] | None = None,
) -> WeightAverage:
    """Trains the model, on its device already, or goes on from the state on disk; returns its average.

    Every random draw depends on the seed and the step alone, so that a resumed run equals an uninterrupted
    one. `saved` gets the average whenever the state is saved. Raises FloatingPointError before a step whose
    loss is not finite.
    """
    average = WeightAverage(model, decay=course.decay)
    optimizers = build_optimizers(model, course.muon_lr, course.adam_lr)
    resumed = _load_state(course.state, model, average, optimizers) if course.state.exists() else {"step": 0}
    start = int(resumed["step"])
    average.to(course.device)
    curve, began, sums = Curve(course.curve, start), time.monotonic(), dict[str, float]()
    for step in range(start, course.steps):
        _set_rate(optimizers, schedule(step, course.steps))
        value, shown = loss(torch.Generator().manual_seed(course.seed * 1_000_003 + step))
        _take_step(value, optimizers, course.name, step, clip=model.parameters() if course.clip else None)
        average.update(model, step)
        sums = {name: sums.get(name, 0.0) + part / CURVE_EVERY for name, part in shown.items()}
        if (step + 1) % CURVE_EVERY == 0:
            entry, sums = {**sums, "seconds": time.monotonic() - began}, {}
            curve.add(step + 1, **entry)
            if report is not None:
                report(step + 1, entry)
        if (step + 1) % course.save_every == 0 or step + 1 == course.steps:
            save_state(course.state, model, average, optimizers, step + 1)
            if saved is not None:
                saved(average)
    return average
