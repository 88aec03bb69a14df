"""The files that a diffusers folder must hold, by what its indices name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.models import ModelRef
from storage.errors import UserError

_INDEX = "model_index.json"
# Components of a diffusers pipeline that have no weights, by a word in their name.
_WEIGHTLESS = ("scheduler", "tokenizer", "processor", "extractor")


def require_components(model: ModelRef) -> None:
    """Raise UserError naming all files that the model's folder lacks, before any of the others is loaded."""
    if lost := missing_files(model.path):
        raise UserError(
            f"model {model.name!r} in {model.path} is not complete, it lacks {', '.join(lost)}: get its "
            "files again"
        )


def component_config(folder: Path, component: str, name: str = "config.json") -> dict[str, Any]:
    """What a diffusers folder says of one of its components; empty where it says nothing."""
    return _read(folder / component / name) or {}


def missing_files(folder: Path) -> list[str]:
    """What a diffusers folder lacks of what its indices name; a link to nothing counts as missing."""
    index = _read(folder / _INDEX)
    if index is None:
        return [_INDEX]
    missing: list[str] = []
    for component, entry in index.items():
        if not isinstance(entry, list) or not all(entry):
            continue
        if not any(word in component for word in _WEIGHTLESS):
            missing += [f"{component}/{file}" for file in _missing_weights(folder / component)]
        elif not any(path.is_file() for path in (folder / component).glob("*.json")):
            missing.append(f"{component}/")
    return missing


def _missing_weights(folder: Path) -> list[str]:
    for path in sorted(folder.glob("*.safetensors.index.json")):
        index = _read(path)
        files = sorted(set(index["weight_map"].values())) if index and "weight_map" in index else [path.name]
        lost = [file for file in files if not (folder / file).is_file()]
        if not lost and (folder / "config.json").is_file():
            return []
        return lost or ["config.json"]
    whole = any(path.is_file() for path in folder.glob("*.safetensors"))
    return [] if whole and (folder / "config.json").is_file() else ["*.safetensors"]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
