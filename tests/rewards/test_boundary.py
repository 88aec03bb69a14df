from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rewards

FORBIDDEN = (
    "ray",
    "av",
    "diffusers",
    "duckdb",
    "storage",
    "pipeline",
    "trainer",
    "jobs",
    "lpips",
    "matplotlib",
)


def test_rewards_import_alone() -> None:
    """In a fresh interpreter: no sibling package and nothing heavy comes along."""
    root = Path(rewards.__file__).parent
    paths = [path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py")]
    modules = [".".join(path.parts) for path in paths if path.stem != "__init__"]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
print([name for name in {FORBIDDEN!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root.parent
    )
    assert done.stdout.strip() == "[]"
