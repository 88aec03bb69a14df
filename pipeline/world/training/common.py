"""Shared by all trainings of the world: resumable state as safetensors and JSON, and curves as JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.world.training.optim import (
    Muon,
    WeightAverage,
    build_optimizers,
    schedule,
    set_rate,
    take_step,
)

__all__ = [
    "Curve",
    "Muon",
    "WeightAverage",
    "build_optimizers",
    "load_state",
    "read_curve",
    "save_safetensors",
    "save_state",
    "schedule",
    "set_rate",
    "take_step",
]


class Curve:
    """A training curve on disk, one JSON object a line; entries from `step` on are dropped when resuming."""

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [entry for entry in read_curve(path) if entry["step"] < step] if path.exists() else []
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


def load_state(
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
