"""Imports run one way, and what trains or scores needs neither ray, av nor a GPU."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT: dict[str, set[str]] = {
    "storage": set(),
    "rewards": set(),
    "pipeline": {"rewards", "storage"},
    "trainer": {"rewards", "storage"},
    "jobs": {"pipeline", "rewards", "storage", "trainer"},
}
OURS = {*MAY_IMPORT, "tests"}

IMPORT_ALL = """
import importlib, pathlib, sys

class Without:
    # As on a machine where they are not installed: not found, rather than refused.
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        missing = name.partition(".")[0] in {"ray", "av"}
        return None if missing else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for package in sys.argv[1:]:
    for file in sorted(pathlib.Path(package).rglob("*.py")):
        parts = file.with_suffix("").parts
        importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
import torch
assert not torch.cuda.is_initialized(), "an import started CUDA"
"""


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every absolute import, written as a statement or as a call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value.partition(".")[0]


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def violations(package: str, source: str) -> list[tuple[int, str]]:
    allowed = MAY_IMPORT[package] | {package}
    return [(line, name) for line, name in imported_names(source) if name in OURS - allowed]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_those_below_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"the package {package} has no files"
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in violations(package, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("storage", "import rewards.rasterise.zbuffer"),
        ("storage", "def later():\n    from pipeline.world import scenes"),
        ("rewards", "from storage.errors import UserError"),
        ("trainer", "import pipeline"),
        ("pipeline", "import importlib\nimportlib.import_module('trainer.step')"),
        ("jobs", "import tests.helpers"),
    ],
)
def test_the_check_sees_a_wrong_import(package: str, source: str) -> None:
    assert violations(package, source)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("jobs", "import trainer.step"),
        ("trainer", "from storage.pairs.writer import PairDataset"),
        ("storage", "import av"),
    ],
)
def test_the_check_lets_a_right_import_pass(package: str, source: str) -> None:
    assert not violations(package, source)


@pytest.mark.parametrize("package", ["storage", "rewards", "trainer"])
def test_a_package_imports_without_ray_av_or_gpu(package: str) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, package],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
