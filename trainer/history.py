"""What trainings have left on the disk: how far one is, how long its steps took, how much it keeps."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.metrics import read_log

_STEP = re.compile(r"step-(\d{8})")
# What of a configuration decides how long a step takes.
_COST = (
    "model",
    "revision",
    "objective",
    "cache_reference",
    "rank",
    "batch_size",
    "grad_accum",
    "precision",
    "forward",
    "gradient_checkpointing",
    "compile",
    "shard",
    "threads",
    "device",
)
# The first steps of a process compile, fill caches and allocate.
_WARM_UP = 3
# The adapter, and the two moments of the optimiser beside it.
_TENSORS_OF_A_CHECKPOINT = 3
_FP32 = 4


def steps_done(out_dir: Path) -> int:
    """The steps of the newest checkpoint of a training; 0 without one."""
    matches = (_STEP.fullmatch(path.name) for path in (out_dir / "checkpoints").glob("step-*"))
    return max((int(match.group(1)) for match in matches if match), default=0)


def step_seconds(config: TrainConfig) -> list[float]:
    """Seconds of logged steps of this training, else of others beside it that compute the same."""
    beside = sorted(path.parent for path in config.out_dir.parent.glob("*/config.json"))
    wanted = _cost(config.to_json())
    for folder in dict.fromkeys([config.out_dir, *beside]):
        if _cost(_read(folder / "config.json")) == wanted:
            logged = [line["seconds"] for line in read_log(folder) if "seconds" in line]
            if logged:
                return logged[_WARM_UP:] or logged
    return []


def bytes_written(config: TrainConfig, trainable: int) -> int:
    """Bytes of the adapter and of the checkpoints that are kept."""
    return trainable * _FP32 * (1 + _TENSORS_OF_A_CHECKPOINT * config.keep)


def cuda_devices(config: TrainConfig) -> int:
    """GPUs that the training would occupy: one for every process of a launcher."""
    if config.device == "cpu" or not torch.cuda.is_available():
        return 0
    return int(os.environ.get("WORLD_SIZE", "1"))


def _cost(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in _COST}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
