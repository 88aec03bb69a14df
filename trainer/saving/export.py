"""The adapter as diffusers loads it, with a note of its base.

adapter/pytorch_lora_weights.safetensors   pipe.load_lora_weights(adapter) reads it, alpha included
        adapter.json                       base model and revision, rank, alpha, how it was trained
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from storage.adapters import METADATA_KEY, NOTE_NAME, WEIGHTS_NAME, sha256
from trainer.saving.checkpoint import write_json, write_tensors


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
        {"format": "pt", METADATA_KEY: json.dumps(header, sort_keys=True)},
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
