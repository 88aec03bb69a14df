"""Where weights of VGGT are, their licence and their sizes; without torch, which only building it needs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryInfo
from rewards.geometry.vggt.config import VGGTConfig
from rewards.hub import cached_file, content_revision, read_json_object, recorded_name

NAME = "vggt"
_DEFAULT_MODEL = "facebook/VGGT-1B"
_LICENSES = {
    "facebook/VGGT-1B": "CC-BY-NC-4.0",
    "facebook/VGGT-1B-Commercial": "VGGT commercial licence (gated; allows commercial use under its terms)",
}
_GATED = ("facebook/VGGT-1B-Commercial",)
_UNKNOWN = "unknown"
_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class VGGTWeights:
    """Weights on disk. revision is the Hub's commit, or a hash of the file for a local folder."""

    model: str
    revision: str
    license: str
    weights: Path
    config: VGGTConfig


def find_weights(model: str | None, revision: str | None) -> VGGTWeights:
    """Find weights in a local folder or in the Hub's cache; nothing is downloaded.

    Weights of several GB under a licence of their own are fetched by an explicit command, which the error
    names. Raises RewardError when they are missing or their config is not understood.
    """
    name = model or _DEFAULT_MODEL
    folder = Path(name)
    if folder.is_dir():
        return _local(folder)
    path = cached_file(name, revision, _WEIGHTS)
    if path is None:
        gated = "accept its terms on its page of the Hub, run `hf auth login`, then "
        raise RewardError(
            f"VGGT weights {name} are not on this machine (licence: {_LICENSES.get(name, _UNKNOWN)}); "
            f"{gated if name in _GATED else ''}fetch them with: hf download {name} {_WEIGHTS} {_CONFIG}"
            + (f" --revision {revision}" if revision else "")
        )
    config = cached_file(name, revision, _CONFIG)
    return VGGTWeights(
        model=name,
        revision=path.parent.name,
        license=_LICENSES.get(name, _UNKNOWN),
        weights=path,
        config=_read_config(config) if config else VGGTConfig(),
    )


def _local(folder: Path) -> VGGTWeights:
    path, config = folder / _WEIGHTS, folder / _CONFIG
    if not path.is_file():
        raise RewardError(f"{folder} has no {_WEIGHTS}; point --geometry-model at a folder with VGGT weights")
    revision = content_revision(path)
    raw = read_json_object(config) if config.is_file() else {}
    return VGGTWeights(
        model=recorded_name(folder),
        revision=revision,
        license=str(raw.get("license", _UNKNOWN)),
        weights=path,
        config=_read_config(config) if config.is_file() else VGGTConfig(),
    )


def _read_config(path: Path) -> VGGTConfig:
    """Known fields are taken; what says only which heads were enabled in training is not needed."""
    raw = read_json_object(path)
    known = {field.name for field in fields(VGGTConfig)}
    unknown = sorted(
        key for key in raw if key not in known and not key.startswith("enable_") and key != "license"
    )
    if unknown:
        raise RewardError(
            f"{path} has fields of another kind of model ({', '.join(unknown)}); it is not a VGGT"
        )
    values: dict[str, Any] = {
        key: tuple(raw[key]) if isinstance(raw[key], list) else raw[key] for key in raw if key in known
    }
    try:
        return VGGTConfig(**values)
    except (TypeError, ValueError) as error:
        raise RewardError(f"{path}: {error}; correct it or fetch it again") from error


def describe(*, model: str | None, revision: str | None) -> GeometryInfo:
    """The weights that `load_backend` would load; raises RewardError when they are missing."""
    found = find_weights(model, revision)
    return GeometryInfo(name=NAME, model=found.model, revision=found.revision, license=found.license)
