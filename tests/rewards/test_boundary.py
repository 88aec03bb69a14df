from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rewards
from rewards.geometry.backends import BACKENDS

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


def test_a_geometry_model_is_described_without_torch() -> None:
    """In a fresh interpreter: what is missing, or what a finished run was scored by, is said at once."""
    code = """
import sys
from rewards.errors import RewardError
from rewards.geometry.backends import BACKENDS, describe_backend
said = []
for name in BACKENDS:
    try:
        said.append(describe_backend(name, model=None, revision="absent").name)
    except RewardError as error:
        said.append(str(error)[:8])
print(len(said), [name for name in ("torch", "safetensors", "accelerate") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(BACKENDS)} []"
