"""Weights: the models that presets name, in the repository or in the Hub's cache. Nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.doctor.finding import GIB, Finding, Needs
from pipeline.components import missing_files
from pipeline.models import PACKAGED
from rewards.errors import RewardError

_INDEX = "model_index.json"
_COGVIDEOX = "CogVideoX licence (commercial use after registration)"


@dataclass(frozen=True, kw_only=True)
class _Published:
    """A model on the Hub: billions of parameters, text encoder and VAE included, and its licence."""

    parameters: float
    license: str

    def __str__(self) -> str:
        half = self.parameters * 2e9 / GIB
        sizes = f"{half:.3g} GiB at 16 bits and twice that at 32"
        return f"{self.parameters:.3g} B parameters, {sizes}, {self.license}"


# Counted from the published configurations: transformer, text encoder (T5 or UMT5 XXL), VAE, image encoder.
PUBLISHED = {
    "THUDM/CogVideoX-2b": _Published(parameters=6.7, license="Apache-2.0"),
    "THUDM/CogVideoX-5b": _Published(parameters=10.5, license=_COGVIDEOX),
    "THUDM/CogVideoX-5b-I2V": _Published(parameters=10.5, license=_COGVIDEOX),
    "THUDM/CogVideoX1.5-5B": _Published(parameters=10.5, license=_COGVIDEOX),
    "THUDM/CogVideoX1.5-5B-I2V": _Published(parameters=10.5, license=_COGVIDEOX),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _Published(parameters=7.2, license="Apache-2.0"),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _Published(parameters=20.1, license="Apache-2.0"),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": _Published(parameters=22.8, license="Apache-2.0"),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": _Published(parameters=11.4, license="Apache-2.0"),
}

_PUBLISHED_JUDGES = {"videoreward": _Published(parameters=2.28, license="Apache-2.0")}


def video_models(names: tuple[str, ...], needs: Needs) -> Iterator[Finding]:
    """Video models by name: all files there, or what is missing and how to fetch it."""
    for name in names:
        yield _packaged(name) if name in PACKAGED else _from_hub(name, name in needs.models)


def geometry_models(names: tuple[tuple[str, str | None], ...], needs: Needs) -> Iterator[Finding]:
    """Geometry models, by backend and model (None: the backend's own)."""
    from rewards.geometry.backends import describe_backend

    for backend, model in names:
        title, required = f"geometry {backend}", (backend, model) in needs.geometries
        try:
            found = describe_backend(backend, model=model, revision=None)
        except RewardError as error:
            detail, _, remedy = str(error).partition("; ")
            yield Finding(
                name=title, state="missing", detail=detail, remedy=remedy or detail, required=required
            )
        else:
            warning = "; labels inherit that it bars commercial use" if found.is_noncommercial else ""
            detail = f"{found.model} at {found.revision}, {found.license}{warning}"
            yield Finding(name=title, state="ok", detail=detail)


def judges() -> Iterator[Finding]:
    """Judges of `gpa evaluate` with weights of their own: found, or how to get them. None is required."""
    from pipeline.evaluation.judges.judge import JUDGES

    for name, spec in JUDGES.items():
        title, known = f"judge {name}", _PUBLISHED_JUDGES.get(name)
        try:
            judge = spec.make(None)
        except RewardError as error:
            detail, _, remedy = str(error).partition("; ")
            about = f"{detail} ({known})" if known else detail
            yield Finding(name=title, state="missing", detail=about, remedy=remedy or detail)
        else:
            yield Finding(name=title, state="ok", detail=f"version {judge.version}, {judge.license}")


def _cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """The folder of a Hub model in the cache, whole or not; None when nothing of it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _packaged(name: str) -> Finding:
    folder = PACKAGED[name]
    lost = missing_files(folder)
    if not lost:
        detail = f"{_bytes(folder) / 2**20:.0f} MiB in the repository, Apache-2.0"
        return Finding(name=f"model {name}", state="ok", detail=detail)
    return Finding(
        name=f"model {name}",
        state="missing",
        detail=f"{folder} lacks {_listed(lost)}",
        remedy="run `gpa pretrain-world`, or install gpa again",
        required=True,
    )


def _from_hub(name: str, required: bool) -> Finding:
    known = PUBLISHED.get(name)
    about = f"{known}" if known else "size and licence: see its page of the Hub"
    folder = _cached_snapshot(name)
    lost = [] if folder is None else missing_files(folder)
    if folder is not None and not lost:
        licence = f", {known.license}" if known else ""
        detail = f"{_bytes(folder) / GIB:.1f} GiB at {folder}{licence}"
        return Finding(name=f"model {name}", state="ok", detail=detail)
    there = "not in the Hub's cache" if folder is None else f"incomplete: no {_listed(lost)}"
    return Finding(
        name=f"model {name}",
        state="missing" if folder is None else "problem",
        detail=f"{there} ({about})",
        remedy=f"hf download {name}",
        required=required,
    )


def _listed(files: list[str]) -> str:
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(files[:3]) + more


def _bytes(folder: Path) -> int:
    paths = (Path(root) / file for root, _, files in os.walk(folder) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file())
