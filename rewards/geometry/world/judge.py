"""The world's second geometry network, by which `gpa evaluate` judges what the first one rewarded.

It is of another shape than that of `rewards.geometry.world.backend` and learned from other scenes; the
measured motion that both are given is the same, so that they share what that gets wrong.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.geometry.reconstruction import GeometryInfo
from rewards.geometry.world import weights

if TYPE_CHECKING:
    from rewards.geometry.world.backend import WorldGeometryBackend

NAME = "world-judge"
_SHIPPED = Path(__file__).resolve().parents[3] / "pipeline" / "world" / "checkpoints" / "geometry-judge"


def load_backend(*, model: str | None, revision: str | None, device: str) -> WorldGeometryBackend:
    """Loads the backend from a local folder, by default the weights shipped beside the packages.

    Raises RewardError as `rewards.geometry.world.backend.load_backend` does.
    """
    from rewards.geometry.world import backend as world_backend

    backend = world_backend.load_backend(model=model or str(_SHIPPED), revision=revision, device=device)
    backend.name = NAME
    return backend


def describe(*, model: str | None, revision: str | None) -> GeometryInfo:
    """The weights that `load_backend` would load; raises RewardError as it does for missing or other ones."""
    return replace(weights.describe(model=model or str(_SHIPPED), revision=revision), name=NAME)
