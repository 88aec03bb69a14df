"""Geometry backends by name. A new one is a file that loads and describes, and a line here or a package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from rewards.errors import RewardError
from rewards.extensions import Table

if TYPE_CHECKING:
    from rewards.geometry.reconstruction import GeometryBackend, GeometryInfo


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """Where a backend is: a module with `load_backend`, and `describe` there or in a lighter one.

    Modules are imported when they are asked for: each brings libraries of its own.
    """

    module: str
    description: str | None = None

    def load(self, model: str | None, revision: str | None, device: str) -> GeometryBackend:
        """The backend with its weights."""
        loader: Callable[..., GeometryBackend] = import_module(self.module).load_backend
        return loader(model=model, revision=revision, device=device)

    def describe(self, model: str | None, revision: str | None) -> GeometryInfo:
        """What would be loaded."""
        describer: Callable[..., GeometryInfo] = import_module(self.description or self.module).describe
        return describer(model=model, revision=revision)


_OWN: dict[str, BackendSpec] = {
    "world": BackendSpec(
        module="rewards.geometry.world.backend", description="rewards.geometry.world.weights"
    ),
    "world-judge": BackendSpec(module="rewards.geometry.world.judge"),
    "vggt": BackendSpec(module="rewards.geometry.vggt.backend", description="rewards.geometry.vggt.weights"),
    "depth-anything": BackendSpec(
        module="rewards.geometry.depth_anything", description="rewards.geometry.depth_anything_weights"
    ),
}
BACKENDS = Table("gpa.geometry", BackendSpec, _OWN)


def load_backend(name: str, *, model: str | None, revision: str | None, device: str) -> GeometryBackend:
    """Load the geometry backend `name` with its weights.

    model: a local folder or a Hub id (None: the backend's default); revision: of the Hub id; device: a
    torch device. Raises RewardError when the name is unknown or the weights are not there.
    """
    return _spec(name).load(model, revision, device)


def describe_backend(name: str, *, model: str | None, revision: str | None) -> GeometryInfo:
    """What `load_backend` would load, without building a network. Raises RewardError as that does."""
    return _spec(name).describe(model, revision)


def _spec(name: str) -> BackendSpec:
    spec = BACKENDS.get(name)
    if spec is None:
        raise RewardError(f"geometry backend '{name}' does not exist; choose one of: {', '.join(BACKENDS)}")
    return spec
