"""Imports run one way, and what trains or scores needs neither ray, av nor a GPU."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
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


def modules() -> dict[str, Path]:
    """Every module of ours by its name."""
    files = [path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def imports_of(source: str, known: Collection[str]) -> set[str]:
    """The modules of ours that a source imports anywhere, for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & set(known) or {node.module} & set(known)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(known)
    return found


def room(module: str, path: Path) -> str:
    """The folder that a module lies in; a module that lies directly in a package is a room of its own."""
    folder, _, _ = module.rpartition(".")
    return module if path.name == "__init__.py" or "." not in folder else folder


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """What imports itself by way of others, and the way; empty when nothing does."""
    open_path: list[str] = []
    closed: set[str] = set()

    def visit(name: str) -> list[str]:
        if name in open_path:
            return [*open_path[open_path.index(name) :], name]
        if name in closed:
            return []
        open_path.append(name)
        for other in sorted(graph.get(name, set())):
            if found := visit(other):
                return found
        closed.add(open_path.pop())
        return []

    return next((found for name in sorted(graph) if (found := visit(name))), [])


def test_no_module_and_no_room_imports_itself_by_way_of_others() -> None:
    files = modules()
    graph = {
        name: imports_of(path.read_text(encoding="utf-8"), files) - {name} for name, path in files.items()
    }
    assert not circle(graph), " -> ".join(circle(graph))
    rooms: dict[str, set[str]] = {}
    for name, others in graph.items():
        here = room(name, files[name])
        rooms.setdefault(here, set()).update({room(other, files[other]) for other in others} - {here})
    assert not circle(rooms), " -> ".join(circle(rooms))


def test_the_check_sees_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert imports_of("def later():\n    from storage.run import Run", ["storage.run"]) == {"storage.run"}
    assert imports_of("from storage import locks", ["storage", "storage.locks"]) == {"storage.locks"}


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
