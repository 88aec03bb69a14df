from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine.imports import postpone, swift_imports


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that says in `sys` when it is read."""
    name = "gpa_postponed"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("import sys\nsys.gpa_read = True\nvalue = 1\n")
    (folder / "inner.py").write_text("value = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "gpa_read", False, raising=False)
    postpone(name)
    yield name
    for module in (name, f"{name}.inner"):
        sys.modules.pop(module, None)


def test_a_postponed_package_is_read_when_something_of_it_is_used(package: str) -> None:
    import gpa_postponed as before

    inspect.getmodule(sys._getframe())  # looks at every module
    assert not sys.gpa_read
    assert before.value == 1
    assert sys.gpa_read
    import gpa_postponed as after

    assert after is sys.modules[package] is not before
    with pytest.raises(AttributeError):
        _ = before.nothing


def test_a_module_of_a_postponed_package_can_be_imported(package: str) -> None:
    from gpa_postponed.inner import value

    assert (value, sys.gpa_read) == (2, True)


def test_what_is_imported_or_absent_stays_as_it_is() -> None:
    before = sys.modules["json"]
    postpone("json")
    postpone("gpa_nowhere")
    assert sys.modules["json"] is before
    assert "gpa_nowhere" not in sys.modules


def test_the_collector_rests_in_the_block_and_works_again() -> None:
    with swift_imports():
        assert not gc.isenabled()
        with swift_imports():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
