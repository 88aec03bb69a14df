"""The software: versions against what gpa asks for and was tested with, and optional packages."""

from __future__ import annotations

import importlib.util
import platform
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from jobs.doctor.finding import Finding, Needs
from rewards.errors import RewardError
from rewards.extensions import GROUPS, declared, load, package_of
from storage.tables.versions import DISTRIBUTION, git_revision, gpa_version

_ROOT = Path(__file__).resolve().parents[2]
_PYTHON = ">=3.11"
_SHOWN = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "ray",
    "duckdb",
    "pyarrow",
    "av",
    "lpips",
)
# Package, what imports it, what it is for, and how it is installed.
_OPTIONAL = {
    "bitsandbytes": ("bitsandbytes", "--optimizer adamw8bit", f"pip install '{DISTRIBUTION}[8bit]'"),
    "kornia": ("kornia", "--matcher lightglue-*", f"pip install '{DISTRIBUTION}[lightglue]'"),
    "depth-anything-3": (
        "depth_anything_3",
        "--geometry depth-anything",
        f"pip install '{DISTRIBUTION}[depth-anything]' && pip install --no-deps depth-anything-3",
    ),
}


def python() -> Iterator[Finding]:
    """The interpreter, and which gpa this is."""
    version = platform.python_version()
    if SpecifierSet(_PYTHON).contains(version, prereleases=True):
        yield Finding(name="python", state="ok", detail=f"{version} at {sys.executable}")
    else:
        remedy = f"make a virtual environment with python {_PYTHON}"
        yield Finding(name="python", state="problem", detail=version, remedy=remedy, required=True)
    where = git_revision() or "installed"
    yield Finding(name="gpa", state="ok", detail=f"{gpa_version() or 'unknown version'} ({where})")


def extensions() -> Iterator[Finding]:
    """What installed packages add to gpa, and whether it can be imported."""
    added: dict[str, list[str]] = {}
    for group, what in GROUPS.items():
        for entry in declared(group):
            try:
                load(entry, what)
            except RewardError as error:
                detail, _, remedy = str(error).rpartition(": ")
                yield Finding(name="extension", state="problem", detail=detail, remedy=remedy)
                continue
            added.setdefault(package_of(entry), []).append(f"{what} {entry.name}")
    for package, lines in added.items():
        yield Finding(name="extension", state="ok", detail=f"{package}: {', '.join(lines)}")


def packages() -> Iterator[Finding]:
    """Every package that gpa needs, at a version it takes."""
    wanted = {str(canonicalize_name(one.name)): one for one in requirements()}
    found = {name: _version(name) for name in wanted}
    for name, requirement in wanted.items():
        version = found[name]
        remedy = f"pip install '{requirement}'"
        if version is None:
            yield Finding(name=name, state="missing", detail="not installed", remedy=remedy, required=True)
        elif not requirement.specifier.contains(version, prereleases=True):
            detail = f"{version}, needed is {requirement.specifier}"
            yield Finding(name=name, state="problem", detail=detail, remedy=remedy, required=True)
        elif name in _SHOWN:
            yield Finding(name=name, state="ok", detail=version)
    yield from _tested(found)


def _tested(found: dict[str, str | None]) -> Iterator[Finding]:
    """How the installation differs from the versions that the project is tested with, where known."""
    tested = constraints()
    if not tested:
        return
    differ = [
        f"{name} {version} (tested {tested[name]})"
        for name, version in sorted(found.items())
        if version is not None and name in tested and _plain(version) != tested[name]
    ]
    if not differ:
        yield Finding(name="tested versions", state="ok", detail=f"all {len(found)} packages are as tested")
        return
    yield Finding(
        name="tested versions",
        state="problem",
        detail=f"{len(differ)} of {len(found)} packages differ: {', '.join(differ)}",
        remedy="harmless most often; pip install -c constraints.txt gives the tested ones",
    )


def optional(needs: Needs) -> Iterator[Finding]:
    """Packages that only some options use."""
    for name, (module, purpose, install) in _OPTIONAL.items():
        version = _version(name)
        if version is not None and importlib.util.find_spec(module) is not None:
            yield Finding(name=name, state="ok", detail=f"{version}, for {purpose}")
        else:
            yield Finding(
                name=name,
                state="missing",
                detail=f"not installed, only for {purpose}",
                remedy=install,
                required=name in needs.packages,
            )


def requirements() -> list[Requirement]:
    """What gpa needs in any case: as its installation says, else as its checkout does."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = project["dependencies"]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def constraints() -> dict[str, str]:
    """The tested versions by package; none outside of a checkout."""
    try:
        lines = (_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name.strip()): version.strip() for name, _, version in pairs}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _plain(version: str) -> str:
    """Without the build, such as +cpu."""
    return version.partition("+")[0]
