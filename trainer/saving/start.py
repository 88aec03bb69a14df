"""The adapter that a training starts from: whether it fits, told before weights load, and its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from storage.adapters import NOTE_NAME, AdapterFile, locate_adapter, name_of, read_adapter
from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.families import Family
from trainer.lora import attach_lora, lora_state

# Of a LoRA of peft: with any of these, what it adds is not alpha / rank times the product of two matrices.
_OTHER_KINDS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias")


@dataclass(frozen=True, kw_only=True)
class Start:
    """An adapter that fits a training. `steps` are those it was trained for, None where it does not say."""

    file: AdapterFile
    steps: int | None

    def told(self, reference: str) -> dict[str, Any]:
        """What an adapter that came of it says of it."""
        name = name_of(self.file.folder)
        return {"name": name, "sha256": self.file.sha256, "steps": self.steps, "reference": reference}

    def values(self) -> dict[str, Tensor]:
        """Its weights under peft's names, on the CPU. Raises UserError for a damaged file."""
        try:
            tensors = load_file(self.file.weights)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"adapter {self.file.weights} cannot be read ({error}): train it again"
            ) from error
        return {name.partition(".")[2]: value for name, value in tensors.items()}


def steps_of(steps: int, start: Start | None, reference: str) -> dict[str, Any]:
    """What an adapter says of its steps, this training's and those of what it started from."""
    if start is None:
        return {"total_steps": steps}
    return {"total_steps": steps + (start.steps or 0), "start": start.told(reference)}


def find_start(config: TrainConfig, family: Family) -> Start | None:
    """The adapter to continue from, or None where a training starts at the base.

    `family` gives the kind and shapes of the model, without weights. Raises UserError, naming file, field,
    both values and the remedy, for the first thing in which the adapter is not of this training.
    """
    if config.from_adapter is None:
        return None
    file = read_adapter(locate_adapter(config.from_adapter))
    if file.note is not None:
        _require_note(file, file.note, config, family)
    _require_header(file, config, family)
    _require_tensors(file, config, family)
    training = (file.note or {}).get("training") or {}
    return Start(file=file, steps=training.get("total_steps", training.get("steps")))


def _require_note(file: AdapterFile, note: dict[str, Any], config: TrainConfig, family: Family) -> None:
    own = "train the model that it was trained on (`model`, `revision`), or start without `from_adapter`"
    path = file.folder / NOTE_NAME
    _require(path, "base_model", note.get("base_model"), config.model, own)
    _require(path, "base_revision", note.get("base_revision"), config.revision, own)
    _require(path, "family", note.get("family"), family.name, own)
    for name in ("rank", "alpha"):
        _require(path, name, note.get(name), getattr(config, name), f"give `{name}` {note.get(name)}")
    _require(
        path, "targets", sorted(note.get("targets") or ()), sorted(family.lora_targets), _targets(family)
    )


def _require_header(file: AdapterFile, config: TrainConfig, family: Family) -> None:
    header, path = file.header, file.weights
    if header is None or not {"r", "lora_alpha"} <= header.keys():
        raise UserError(
            f"{path}: its header does not say rank and alpha, so its strength is not known: save it with "
            "diffusers' save_lora_weights and its adapter metadata, or start without `from_adapter`"
        )
    _require(path, "component", file.component, family.component, "give a LoRA of that component")
    _require(path, "r", header["r"], config.rank, f"give `rank` {header['r']}")
    _require(path, "lora_alpha", header["lora_alpha"], config.alpha, f"give `alpha` {header['lora_alpha']}")
    for name in _OTHER_KINDS:
        if header.get(name):
            raise UserError(
                f"{path}: {name} is {header[name]!r}, only a plain LoRA can be continued: start without "
                "`from_adapter`"
            )


def _require_tensors(file: AdapterFile, config: TrainConfig, family: Family) -> None:
    """The tensors are those of this training's adapter, by name and shape."""
    with torch.device("meta"):
        shell = type(family.transformer).from_config(family.transformer.config)
        attach_lora(shell, config.rank, config.alpha, family.lora_targets, seed=0)
    expected = {
        f"{family.component}.{name}": tuple(value.shape) for name, value in lora_state(shell, "meta").items()
    }
    for name in sorted(expected.keys() | file.shapes.keys()):
        if expected.get(name) != file.shapes.get(name):
            found, wanted = (_shape(of.get(name)) for of in (file.shapes, expected))
            raise UserError(
                f"{file.weights}: {name} is {found}, this training has {wanted}: {_targets(family)}"
            )


def _require(path: Any, name: str, found: object, expected: object, remedy: str) -> None:
    if found != expected:
        raise UserError(f"{path}: {name} is {found!r}, this training has {expected!r}: {remedy}")


def _targets(family: Family) -> str:
    return f"give a LoRA of {', '.join(family.lora_targets)} of this model, named as diffusers names it"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))
