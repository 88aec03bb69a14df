"""Which weights the world's geometry backend would load, said without importing what a network needs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryInfo
from rewards.hub import WEIGHTS, recorded_name

NAME = "world"
LICENSE = "Apache-2.0"


def describe(*, model: str | None, revision: str | None) -> GeometryInfo:
    """The weights that `load_backend` would load; raises RewardError as it does for missing or other ones."""
    folder = folder_of(model)
    if not (folder / WEIGHTS).is_file():
        raise RewardError(
            f"geometry weights in {folder} are missing ({WEIGHTS}); run `gpa pretrain-world` or reinstall"
        )
    found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]
    if revision is not None and revision != found:
        raise RewardError(
            f"geometry weights in {folder} are revision {found}, not {revision}; "
            "drop the revision or fetch that one"
        )
    return GeometryInfo(
        name=NAME,
        model=recorded_name(folder) if model else "world",
        revision=found,
        license=LICENSE,
    )


def folder_of(model: str | None) -> Path:
    """The folder of the weights: the one given, or the one shipped."""
    shipped = Path(__file__).resolve().parents[3] / "pipeline" / "world" / "checkpoints" / "geometry"
    return Path(model) if model else shipped
