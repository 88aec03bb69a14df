"""What a run was made with: versions of the packages that decide its numbers, and the git revision."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "geometric-preference-alignment"
_RECORDED = ("torch", "diffusers", "transformers", "peft", "accelerate", "ray", "duckdb", "pyarrow", "av")


def versions() -> dict[str, str | None]:
    """Installed versions by name, None for what is not installed."""
    found: dict[str, str | None] = {"gpa": _version(DISTRIBUTION), "python": platform.python_version()}
    return found | {name: _version(name) for name in _RECORDED}


@cache
def git_revision() -> str | None:
    """The commit of the checkout this code runs from, -dirty when it was changed; None outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        revision = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
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
