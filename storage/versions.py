"""What a run was made with: versions of the packages that decide its numbers, and the git revision."""

from __future__ import annotations

import platform
import subprocess
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "geometric-preference-alignment"
_ROOT = Path(__file__).resolve().parent.parent
_RECORDED = ("torch", "diffusers", "transformers", "peft", "accelerate", "ray", "duckdb", "pyarrow", "av")


def versions() -> dict[str, str | None]:
    """Installed versions by name, None for what is not installed."""
    found: dict[str, str | None] = {"gpa": gpa_version(), "python": platform.python_version()}
    return found | {name: _version(name) for name in _RECORDED}


@cache
def gpa_version() -> str | None:
    """The version of this gpa: as installed, else as its checkout says; None when neither is known."""
    installed = _version(DISTRIBUTION)
    if installed is not None:
        return installed
    try:
        project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return None
    return str(project["version"]) if project.get("name") == DISTRIBUTION else None


@cache
def git_revision() -> str | None:
    """The commit of the checkout this code runs from, -dirty when it was changed; None outside of one."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        revision = _git(_ROOT, "rev-parse", "HEAD")
        changed = _git(_ROOT, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{revision}-dirty" if changed else revision


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
