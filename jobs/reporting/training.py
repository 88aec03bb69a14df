"""The training curves of a report, from the logs of RUN/train/*."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jobs.reporting.plain import number, plain
from storage.run import Run
from trainer.metrics import read_log

# A curve on a screen shows no more; steps between are averaged.
POINTS = 400
_SETTINGS = (
    "objective",
    "beta",
    "lr",
    "rank",
    "alpha",
    "steps",
    "warmup",
    "schedule",
    "batch_size",
    "grad_accum",
    "winner_anchor",
    "winner_weight",
    "cache_reference",
    "precision",
    "split",
    "seed",
    "model",
)


def trainings(run: Run) -> list[dict[str, Any]]:
    """Every training with a log: its name, its settings, and its metrics as [steps, values]."""
    folders = sorted(path for path in (run.path / "train").glob("*") if path.is_dir())
    found = [_training(folder) for folder in folders]
    return [one for one in found if one["metrics"]]


def _training(folder: Path) -> dict[str, Any]:
    lines = [line for line in read_log(folder) if isinstance(line, dict) and _is_number(line.get("step"))]
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    metrics = {}
    for name in names:
        points = [(line["step"], line[name]) for line in lines if _is_number(line.get(name))]
        if points:
            metrics[name] = thinned(points)
    return {"name": folder.name, "config": _config(folder), "metrics": metrics}


def thinned(points: list[tuple[float, float]]) -> list[list[float | int | None]]:
    """At most POINTS points: each the mean of as many neighbours; steps and values."""
    size = math.ceil(len(points) / POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    steps = [number(sum(step for step, _ in group) / len(group)) for group in groups]
    return [steps, [number(sum(value for _, value in group) / len(group), 5) for group in groups]]


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        return {}
    return {name: plain(config[name]) for name in _SETTINGS if config.get(name) is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
