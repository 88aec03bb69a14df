"""Model families the trainer knows: one file each, and one line in the table or in a package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from rewards.extensions import Table
from storage.errors import UserError
from trainer.families.base import Condition, Family, FamilyLoader, PairShapes
from trainer.families.cogvideox import CogVideoXFamily
from trainer.families.wan import WanFamily

# Transformer class, as model_index.json names it -> what knows how to train it.
_OWN: dict[str, FamilyLoader] = {
    "CogVideoXTransformer3DModel": CogVideoXFamily.load,
    "WanTransformer3DModel": WanFamily.load,
}
FAMILIES: Table[FamilyLoader] = Table("gpa.families", Callable, _OWN)


def load_family(model_dir: Path, dtype: torch.dtype, *, weights: bool = True) -> Family:
    """The model of a diffusers folder, ready for an adapter; without `weights`, its shapes only.

    Raises UserError when it is not one we train.
    """
    index = model_dir / "model_index.json"
    try:
        entry = json.loads(index.read_text(encoding="utf-8")).get("transformer")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{model_dir} is not a diffusers model folder ({index.name}: {error}): give the folder that "
            "holds model_index.json, transformer/ and scheduler/"
        ) from error
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"the model in {model_dir} has a transformer of class {name}, which cannot be trained: "
            f"choose a model with one of {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name](model_dir, dtype, weights)


__all__ = ["FAMILIES", "Condition", "Family", "PairShapes", "load_family"]
