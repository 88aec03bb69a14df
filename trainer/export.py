"""The adapter as diffusers loads it, with a note of the base it belongs to.

adapter/pytorch_lora_weights.safetensors   pipe.load_lora_weights(adapter) reads it, alpha included
        adapter.json                       base model and revision, rank, alpha, how it was trained
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from storage.errors import UserError
from trainer.files import sha256, write_json, write_tensors

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
NOTE_NAME = "adapter.json"
# The key under which diffusers looks for the LoRA configuration in the header of the weights.
_METADATA_KEY = "lora_adapter_metadata"


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """Which base an adapter belongs to, and its content: `sha256` is that of the weights file."""

    base_model: str
    base_revision: str
    family: str
    rank: int
    alpha: int
    targets: tuple[str, ...]
    sha256: str
    training: dict[str, Any]


def export_adapter(
    directory: Path,
    lora: dict[str, Tensor],
    *,
    component: str,
    base: tuple[str, str],
    family: str,
    rank: int,
    alpha: int,
    targets: tuple[str, ...],
    training: dict[str, Any],
) -> Path:
    """Write an adapter folder. `base` is (model, revision), `component` the pipeline part it goes into.

    Without rank and alpha in the header, diffusers would assume alpha = rank and load it at another strength.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(targets),
        "lora_dropout": 0.0,
        "bias": "none",
    }
    header = {f"{component}.{name}": value for name, value in config.items()}
    weights = directory / WEIGHTS_NAME
    write_tensors(
        weights,
        {f"{component}.{name}": value for name, value in lora.items()},
        {"format": "pt", _METADATA_KEY: json.dumps(header, sort_keys=True)},
    )
    model, revision = base
    note = {
        "base_model": model,
        "base_revision": revision,
        "family": family,
        "rank": rank,
        "alpha": alpha,
        "targets": list(targets),
        "sha256": sha256(weights),
        "training": training,
    }
    write_json(directory / NOTE_NAME, note)
    return directory


def read_adapter(directory: Path) -> AdapterInfo:
    """The note of an adapter folder. Raises UserError when the folder is no adapter of ours or is damaged."""
    path = directory / NOTE_NAME
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        info = AdapterInfo(**{**note, "targets": tuple(note["targets"])})
        intact = sha256(directory / WEIGHTS_NAME) == info.sha256
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory} is not a whole adapter ({error}): give the adapter folder of a finished training"
        ) from error
    if not intact:
        raise UserError(
            f"{directory / WEIGHTS_NAME} is not what was exported: run the training command again"
        )
    return info


def require_base(info: AdapterInfo, model: str, revision: str) -> None:
    """Raise UserError when the adapter was trained on another base than this model and revision."""
    if (info.base_model, info.base_revision) != (model, revision):
        raise UserError(
            f"the adapter was trained on {info.base_model} at revision {info.base_revision}, not on {model} "
            f"at {revision}: choose that base, or train an adapter for this one"
        )
