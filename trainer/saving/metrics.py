"""The training log: one JSON object a line, and trackers; and what trainings have left on the disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from storage.atomic import write_bytes
from trainer.config import TrainConfig

_LOG_NAME = "metrics.jsonl"
# Figures of data that is not trained on; only some lines carry them.
HELD_OUT = "val/"


class MetricsLog:
    """Appends a line per step; opening it at a step drops what an interrupted training logged after it.

    Trackers cannot drop, and are told of a step once: what is computed again is the same.
    """

    def __init__(self, out_dir: Path, resumed_step: int, trackers: Sequence[Any] = ()) -> None:
        """Open the log of a training that continues after `resumed_step` steps (0: from the start)."""
        path = out_dir / _LOG_NAME
        lines = read_log(out_dir)
        kept = [line for line in lines if line["step"] <= resumed_step]
        self._told = max((line["step"] for line in lines), default=0)
        write_bytes(path, "".join(_line(line) for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._trackers = trackers

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of the step that was the `step`-th to be completed."""
        self._file.write(_line({"step": step, **metrics}))
        self._file.flush()
        if step <= self._told:
            return
        named = {name if name.startswith(HELD_OUT) else f"train/{name}": v for name, v in metrics.items()}
        for tracker in self._trackers:
            tracker.log(named, step=step)

    def sync(self) -> None:
        """Make the lines durable, before a checkpoint that relies on them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def read_log(out_dir: Path) -> list[dict[str, Any]]:
    """The whole lines of a training log, oldest first; a line cut off by a crash ends it."""
    path = out_dir / _LOG_NAME
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        lines.append(line)
    return lines


def recent_means(out_dir: Path, step: int | None = None, window: int = 20) -> dict[str, float]:
    """Mean of every metric over the last `window` logged steps (up to `step`): single steps are noisy.

    Figures of held-out data are the newest ones.
    """
    lines = [line for line in read_log(out_dir) if step is None or line["step"] <= step]
    recent = lines[-window:]
    if not recent:
        return {}
    names = [name for name in recent[-1] if name != "step" and not name.startswith(HELD_OUT)]
    means = {name: sum(line[name] for line in recent) / len(recent) for name in names}
    held_out = {k: v for line in lines for k, v in line.items() if k.startswith(HELD_OUT)}
    return means | held_out


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"


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
    if config.device == "cpu":
        return 0
    import torch

    if not torch.cuda.is_available():
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
