"""Checkpoints: one folder per step, written whole or not at all, without pickle.

checkpoints/step-00000040/pytorch_lora_weights.safetensors, adapter.json   an adapter as export.py writes it
                          optimizer.safetensors   <parameter>|<key of its optimiser state>
                          rng.safetensors         torch's CPU generator
                          state.json              step, configuration, schedule, sha256 of the three
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from storage.adapters import sha256
from storage.atomic import sync_directory, write_bytes
from trainer.lora import like, whole
from trainer.saving.saved import FORMAT, TENSOR_FILES, checkpoint_of, newest_first, read_state


def write_json(path: Path, value: Any) -> None:
    """Replace the file with indented JSON; NaN and infinity are refused (ValueError)."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace the file with these tensors as safetensors; the same tensors always give the same bytes."""
    write_bytes(path, _settled(save(tensors, metadata=metadata)))


def _settled(data: bytes) -> bytes:
    """The file with its metadata in order of their names: safetensors writes them in an order of its own."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-8 * (-len(text) // 8))  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[end:]


def _publish_directory(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; what stood under that name is replaced."""
    sync_directory(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_directory(final.parent)


_logger = logging.getLogger(__name__)

_TEMPORARY = ".tmp-"
_SEPARATOR = "|"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training after `step` steps; `config` holds what must not change on resume.

    `schedule` says from which step on the learning rate followed that of how many steps.
    """

    step: int
    config: dict[str, Any]
    schedule: list[dict[str, int]]
    lora: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: Tensor

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step must be >= 0, got {self.step}")
        if self.rng.dtype != torch.uint8:
            raise ValueError(f"rng must be the bytes of a generator state, got {self.rng.dtype}")


def save_checkpoint(
    directory: Path,
    checkpoint: Checkpoint,
    keep: int,
    *,
    export: Callable[[Path, dict[str, Tensor]], Path],
    spared: int | None = None,
) -> Path:
    """Write a checkpoint folder in one move, then delete all but the newest `keep` and that of step `spared`.

    `export` writes the weights into the folder as an adapter.
    """
    directory.mkdir(parents=True, exist_ok=True)
    final = checkpoint_of(directory, checkpoint.step)
    temporary = directory / f"{_TEMPORARY}{os.getpid()}-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    files = TENSOR_FILES[FORMAT]
    export(temporary, checkpoint.lora)
    write_tensors(temporary / files["optimizer"], checkpoint.optimizer)
    write_tensors(temporary / files["rng"], {"torch": checkpoint.rng})
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "config": checkpoint.config,
        "schedule": checkpoint.schedule,
        "sha256": {name: sha256(temporary / file) for name, file in files.items()},
    }
    write_json(temporary / "state.json", state)
    _publish_directory(temporary, final)
    _prune(directory, keep, spared)
    return final


def load_latest(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None; a damaged one is warned of and the one before it is used."""
    damaged = False
    for path in newest_first(directory):
        try:
            checkpoint = _load(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            _logger.warning("checkpoint %s is damaged (%s): trying the one before it", path, error)
            damaged = True
            continue
        if damaged:
            _logger.warning("continuing from checkpoint %s instead", path)
        return checkpoint
    if damaged:
        _logger.warning(
            "no whole checkpoint is left in %s: training starts again from the first step", directory
        )
    return None


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's tensors on the CPU, named by parameter; a collective when they are sharded."""
    return {
        f"{name}{_SEPARATOR}{key}": _saved(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], state: dict[str, Tensor]
) -> None:
    """Put the optimiser's tensors back. Raises ValueError for a tensor of no parameter."""
    for full_name, value in state.items():
        name, _, key = full_name.rpartition(_SEPARATOR)
        if name not in parameters:
            raise ValueError(f"the saved optimiser has a state for {name}, which the adapter has not")
        parameter = parameters[name]
        # AdamW keeps its step counts on the CPU, the moments beside their parameter.
        if value.ndim == 0:
            optimizer.state[parameter][key] = value.clone()
        elif value.shape == parameter.shape:
            optimizer.state[parameter][key] = like(value, parameter)
        else:
            optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def _saved(value: Tensor | int) -> Tensor:
    # An 8-bit optimiser counts its steps in a plain number.
    tensor = value if isinstance(value, Tensor) else torch.tensor(float(value))
    return whole(tensor.detach()).to("cpu", copy=True).contiguous()


def _load(path: Path) -> Checkpoint:
    state = read_state(path)
    files = TENSOR_FILES[state["format"]]
    lora, optimizer, rng = (load_file(path / file) for file in files.values())
    if state["format"] > 1:
        # Without the component that they go into.
        lora = {name.partition(".")[2]: value for name, value in lora.items()}
    return Checkpoint(
        step=state["step"],
        config=state["config"],
        schedule=state["schedule"],
        lora=lora,
        optimizer=optimizer,
        rng=rng["torch"],
    )


def _prune(directory: Path, keep: int, spared: int | None) -> None:
    for path in list(newest_first(directory))[keep:]:
        if spared is None or path != checkpoint_of(directory, spared):
            shutil.rmtree(path)
    # A killed process leaves its unfinished folder; only one process writes here at a time.
    for path in directory.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)
