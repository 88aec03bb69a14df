"""What a training has left on the disk, read without torch: a finished one says so at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.adapters import NOTE_NAME, WEIGHTS_NAME, locate_adapter, sha256
from storage.errors import UserError
from storage.pairs.index import PairIndex
from trainer.config import BEFORE_IT_EXISTED, TrainConfig
from trainer.metrics import recent_means

FORMAT = 1
TENSOR_FILES = ("lora", "optimizer", "rng")
CARD_NAME = "README.md"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished training; `metrics` are means over its last 20 steps."""

    adapter_dir: Path
    steps: int
    metrics: dict[str, float]


def finished(config: TrainConfig) -> TrainResult | None:
    """The result of a training that has done its steps and whose adapter is whole; None for any other.

    What is wrong with one is for the trainer to say.
    """
    adapter_dir = config.out_dir / "adapter"
    newest = next(newest_first(config.out_dir / "checkpoints"), None)
    try:
        if newest is None or not (adapter_dir / CARD_NAME).is_file():
            return None
        state = read_state(newest)
        note = json.loads((adapter_dir / NOTE_NAME).read_text(encoding="utf-8"))
        pairs = PairIndex(config.pairs_dir, config.split, config.max_pairs).fingerprint
        require_same_config(state["config"], fixed_of(config, pairs, processes()), config.out_dir)
        whole = note["sha256"] == sha256(adapter_dir / WEIGHTS_NAME)
        same = note["training"]["steps"] == state["step"] == config.steps
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    if not (whole and same and note["training"]["pairs"] == pairs):
        return None
    return TrainResult(adapter_dir=adapter_dir, steps=config.steps, metrics=recent_means(config.out_dir))


def fixed_of(config: TrainConfig, pairs: str, processes: int) -> dict[str, Any]:
    """What must not change when a training is resumed. Raises UserError without its adapter to start from."""
    fixed = {**config.fixed_fields(), "pairs": pairs, "processes": processes}
    if config.from_adapter is not None:
        fixed["from_adapter"] = sha256(locate_adapter(config.from_adapter) / WEIGHTS_NAME)
    return fixed


def processes() -> int:
    """How many train together, as a launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises ValueError or OSError when it is not whole."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"it has format {state['format']}, this version reads {FORMAT}")
    for name in TENSOR_FILES:
        if sha256(checkpoint / f"{name}.safetensors") != state["sha256"][name]:
            raise ValueError(f"{name}.safetensors is not what was written")
    return state


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """The checkpoints of a folder, whole or not."""
    yield from sorted(checkpoints.glob("step-*"), reverse=True)


def require_same_config(saved: dict[str, Any], current: dict[str, Any], out_dir: Path) -> None:
    """Raise UserError naming the first field in which a resumed training differs from the saved one.

    A field that the saved one does not have came later, and then was what changed nothing.
    """
    for name in sorted(saved.keys() | current.keys()):
        before, now = saved.get(name, BEFORE_IT_EXISTED.get(name)), current.get(name)
        if before != now:
            raise UserError(
                f"the training in {out_dir} was started with {name} {before!r}, now it is {now!r}: give the "
                "same value to continue it, or another output name to start a new one"
            )
