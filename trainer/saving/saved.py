"""What a training has left on the disk, read without torch: a finished one says so at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.adapters import NOTE_NAME, WEIGHTS_NAME, locate_adapter, sha256
from storage.errors import UserError
from storage.pairs.index import PairIndex
from trainer.config import BEFORE_IT_EXISTED, TrainConfig
from trainer.saving.metrics import recent_means

FORMAT = 2
# The files of a checkpoint of each format by what they hold. The weights of the second are an adapter's.
TENSOR_FILES = {
    1: {"lora": "lora.safetensors", "optimizer": "optimizer.safetensors", "rng": "rng.safetensors"},
    2: {"lora": WEIGHTS_NAME, "optimizer": "optimizer.safetensors", "rng": "rng.safetensors"},
}
CARD_NAME = "README.md"
# How many pairs a step takes is fixed; not how they are divided.
PAIRS_PER_STEP = "batch_size * grad_accum * processes"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why a training wrote its adapter: after how many steps of those asked, by steps, patience or finish.

    `patience` is the one that was asked for; with one the adapter is that of the best look.
    """

    by: str
    after: int
    of: int
    patience: int | None = None

    @classmethod
    def read(cls, note: dict[str, Any]) -> Ending:
        """What an adapter's note says. Raises KeyError or TypeError for no note of a training."""
        training = note["training"]
        if "ended" not in training:
            # Before trainings could end early.
            return cls(by="steps", after=training["steps"], of=training["steps"])
        return cls(**training["ended"])


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A training that wrote its adapter; `metrics` are means over the 20 steps before it."""

    adapter_dir: Path
    steps: int
    metrics: dict[str, float]
    ending: Ending


def finished(config: TrainConfig) -> TrainResult | None:
    """The result of a training that has ended and whose adapter is whole; None for any other.

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
        ending, steps = Ending.read(note), note["training"]["steps"]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    asked = (ending.of, ending.patience) == (config.steps, config.patience)
    done = ending.after == state["step"] and (ending.after == ending.of or ending.by == "patience")
    if not (whole and asked and done and note["training"]["pairs"] == pairs):
        return None
    metrics = recent_means(config.out_dir, steps)
    return TrainResult(adapter_dir=adapter_dir, steps=steps, metrics=metrics, ending=ending)


def fixed_of(config: TrainConfig, pairs: str, processes: int) -> dict[str, Any]:
    """What must not change when a training is resumed. Raises UserError without its adapter to start from."""
    fixed = {**config.fixed_fields(), "pairs": pairs}
    fixed[PAIRS_PER_STEP] = config.batch_size * config.grad_accum * processes
    if config.from_adapter is not None:
        fixed["from_adapter"] = sha256(locate_adapter(config.from_adapter) / WEIGHTS_NAME)
    return fixed


def processes() -> int:
    """How many train together, as a launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes, as a launcher says."""
    return os.environ.get("RANK", "0") == "0"


def read_state(checkpoint: Path, *, whole: bool = True) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises ValueError or OSError when it is not `whole`."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if state["format"] not in TENSOR_FILES:
        raise ValueError(f"it has format {state['format']}, this version reads up to {FORMAT}")
    for name, file in TENSOR_FILES[state["format"]].items() if whole else ():
        if sha256(checkpoint / file) != state["sha256"][name]:
            raise ValueError(f"{file} is not what was written")
    if state["format"] == 1:
        _bring_up(state)
    return state


def _bring_up(state: dict[str, Any]) -> None:
    """What a checkpoint of the first format says, as the second says it."""
    config = state["config"]
    sizes = [config.pop(name) for name in ("batch_size", "grad_accum", "processes")]
    config[PAIRS_PER_STEP] = math.prod(sizes)
    # A constant rate does not depend on them, and they were not kept with it.
    steps = config.pop("steps", None)
    state["schedule"] = [] if steps is None else [{"from_step": 0, "steps": steps}]


def checkpoint_of(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint after so many steps."""
    return checkpoints / f"step-{step:08d}"


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """The checkpoints of a folder, whole or not."""
    yield from sorted(checkpoints.glob("step-*"), reverse=True)


def newest_whole(checkpoints: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole and what it says of itself."""
    for path in newest_first(checkpoints):
        try:
            return path, read_state(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def require_continuable(config: TrainConfig, fixed: dict[str, Any]) -> None:
    """Raise UserError when the newest checkpoint, whole or not, is of another training or of more steps."""
    try:
        state = read_state(next(newest_first(config.out_dir / "checkpoints")), whole=False)
    except (StopIteration, OSError, ValueError, KeyError, TypeError):
        return
    require_same_config(state["config"], fixed, config.out_dir)
    if state["step"] > config.steps:
        raise UserError(
            f"the training in {config.out_dir} has done {state['step']} steps, `steps` is now "
            f"{config.steps}: give at least as many, or `finish` to have its adapter as it is"
        )


def require_same_config(saved: dict[str, Any], current: dict[str, Any], out_dir: Path) -> None:
    """Raise UserError naming the first field in which a resumed training differs from the saved one.

    A field that one of them does not have came later, and there is what changes nothing.
    """
    for name in sorted(saved.keys() | current.keys()):
        before, now = (one.get(name, BEFORE_IT_EXISTED.get(name)) for one in (saved, current))
        if before != now:
            raise UserError(
                f"the training in {out_dir} was started with {name} {before!r}, now it is {now!r}: give the "
                "same value to continue it, or another output name to start a new one"
            )
