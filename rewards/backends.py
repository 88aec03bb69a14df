"""The geometry backends by name. Adding one is a file with a loader and a line here."""

from __future__ import annotations

from collections.abc import Callable

from rewards.errors import RewardError
from rewards.geometry import GeometryBackend

Loader = Callable[[str | None, str | None, str], GeometryBackend]


def _vggt(model: str | None, revision: str | None, device: str) -> GeometryBackend:
    from rewards.vggt.backend import load_vggt_backend

    return load_vggt_backend(model=model, revision=revision, device=device)


def _world(model: str | None, revision: str | None, device: str) -> GeometryBackend:
    from rewards.world_geometry import load_world_backend

    return load_world_backend(model=model, revision=revision, device=device)


def _depth_anything(model: str | None, revision: str | None, device: str) -> GeometryBackend:
    from rewards.depth_anything import load_depth_anything_backend

    return load_depth_anything_backend(model=model, revision=revision, device=device)


BACKENDS: dict[str, Loader] = {"vggt": _vggt, "world": _world, "depth-anything": _depth_anything}


def load_backend(name: str, *, model: str | None, revision: str | None, device: str) -> GeometryBackend:
    """Load the geometry backend `name` with its weights.

    model: a local folder or a Hub id (None: the backend's default); revision: of the Hub id; device: a
    torch device. Raises RewardError when the name is unknown or the weights are not there.
    """
    loader = BACKENDS.get(name)
    if loader is None:
        raise RewardError(f"geometry backend '{name}' does not exist; choose one of: {', '.join(BACKENDS)}")
    return loader(model, revision, device)
