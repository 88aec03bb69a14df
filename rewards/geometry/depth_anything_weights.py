"""Where weights of Depth Anything 3 are, their licence and architecture; without torch and the package."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryInfo
from rewards.hub import cached_file, content_revision, read_json_object, recorded_name

NAME = "depth-anything"
_DEFAULT_MODEL = "depth-anything/DA3-BASE"
INSTALL = (
    "pip install 'geometric-preference-alignment[depth-anything]' && pip install --no-deps depth-anything-3"
)
# The architectures that predict cameras; the others of the package (metric, mono, nested) are refused.
_ARCHITECTURES = ("da3-small", "da3-base", "da3-large", "da3-giant")
_LICENSES = {
    "depth-anything/DA3-SMALL": "Apache-2.0",
    "depth-anything/DA3-BASE": "Apache-2.0",
    "depth-anything/DA3-LARGE": "CC-BY-NC-4.0",
    "depth-anything/DA3-LARGE-1.1": "CC-BY-NC-4.0",
    "depth-anything/DA3-GIANT": "CC-BY-NC-4.0",
    "depth-anything/DA3-GIANT-1.1": "CC-BY-NC-4.0",
}
_UNKNOWN = "unknown"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True, kw_only=True)
class DepthAnythingWeights:
    """Weights on disk. revision is the Hub's commit, or a hash of the file for a local folder."""

    model: str
    revision: str
    license: str
    weights: Path
    architecture: str


def describe(*, model: str | None, revision: str | None) -> GeometryInfo:
    """The weights that `load_backend` would load; raises RewardError as it does for what is missing."""
    require_package()
    found = find_weights(model, revision)
    return GeometryInfo(name=NAME, model=found.model, revision=found.revision, license=found.license)


def require_package() -> None:
    """Raise RewardError unless the package's network can be imported."""
    missing = [
        name
        for name in ("depth_anything_3", "addict", "einops", "omegaconf")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise RewardError(
            f"geometry backend 'depth-anything' needs {', '.join(missing)}; install it with: {INSTALL}"
        )


def find_weights(model: str | None, revision: str | None) -> DepthAnythingWeights:
    """Find weights in a local folder or in the Hub's cache. Raises RewardError saying how to fetch them."""
    name = model or _DEFAULT_MODEL
    folder = Path(name)
    local = folder.is_dir()
    path = folder / _WEIGHTS if local else cached_file(name, revision, _WEIGHTS)
    if local and not folder.joinpath(_WEIGHTS).is_file():
        raise RewardError(
            f"{folder} has no {_WEIGHTS}; point --geometry-model at a folder with Depth Anything 3 weights"
        )
    if path is None:
        license_name = _LICENSES.get(name, _UNKNOWN)
        raise RewardError(
            f"Depth Anything 3 weights {name} are not on this machine (licence: {license_name});"
            f" fetch them with: hf download {name} {_WEIGHTS} {_CONFIG}"
            + (f" --revision {revision}" if revision else "")
        )
    config = folder / _CONFIG if local else cached_file(name, revision, _CONFIG)
    about = read_json_object(config) if config is not None and config.is_file() else {}
    return DepthAnythingWeights(
        model=recorded_name(folder) if local else name,
        revision=content_revision(path) if local else path.parent.name,
        license=_LICENSES.get(name, str(about.get("license", _UNKNOWN))),
        weights=path,
        architecture=_architecture(name, about),
    )


def _architecture(name: str, about: dict[str, Any]) -> str:
    """By the config's model_name, else by the name of the model; nothing else of a config is used."""
    found = str(about.get("model_name") or name.rsplit("/", 1)[-1].lower().removesuffix("-1.1"))
    if found not in _ARCHITECTURES:
        raise RewardError(
            f"Depth Anything 3 model {name} is a {found!r}, which has no cameras to reconstruct with; choose "
            f"one of: {', '.join(_ARCHITECTURES)} (a local folder says which in config.json: model_name)"
        )
    return found
