"""A Ray starts whatever TMPDIR and HOME are, and what the user chose for it is named when it does not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine import ray_places
from pipeline.engine.ray_session import open_warm_actors
from pipeline.engine.worker_settings import WorkerSettings
from storage.errors import UserError

_NAMES = ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short name, which TMPDIR and HOME are; nothing is chosen for Ray."""
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="g") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("HOME", folder)
        yield Path(folder)


def deep(folder: Path) -> Path:
    """A folder in it that is too deep for Ray's sockets, and for our own."""
    path = folder / ("x" * 90)
    path.mkdir()
    return path


def test_what_ray_would_choose_itself_is_left_to_it(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ray_places.temporary_folder(), ray_places.token()) == (None, {})
    (short / "ray").mkdir()
    (short / "ray" / "ray_current_cluster").touch()
    assert ray_places.temporary_folder() is None
    monkeypatch.setenv("TMPDIR", str(short / "not" / "there"))
    assert ray_places.temporary_folder() is None
    assert not list(short.glob("not*"))


@pytest.mark.parametrize("what", ["long", "a file", "another's address", "not writable"])
def test_another_place_is_found_unless_the_user_chose_one(
    short: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "long":
        monkeypatch.setenv("TMPDIR", str(deep(short)))
    elif what == "a file":
        (short / "ray").touch()
    else:
        (short / "ray").mkdir()
        (short / "ray" / "ray_current_cluster").touch()
        denied = short / "ray" / ("ray_current_cluster" if what == "another's address" else ".")
        if what == "not writable":
            (short / "ray" / "ray_current_cluster").unlink()
        access = os.access
        # To root everything is writable.
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != denied and access(path, mode))
    folder = ray_places.temporary_folder()
    assert folder is not None
    assert Path(folder).owner() == Path(short).owner()
    assert len(f"{folder}/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store") <= 107
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert ray_places.temporary_folder() is None


def test_a_folder_that_another_user_made_under_our_name_is_not_taken(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_places, "_OTHERS", (str(short / "one"), str(short / "two")))
    for name in ("one", "two"):
        (short / name).mkdir()
    (short / "one" / f"gpa-ray-{os.getuid()}").symlink_to(short)
    monkeypatch.setenv("TMPDIR", str(deep(short)))
    assert ray_places.temporary_folder() == str(short / "two" / f"gpa-ray-{os.getuid()}")
    (short / "two" / f"gpa-ray-{os.getuid()}").rmdir()
    (short / "two" / f"gpa-ray-{os.getuid()}").touch()
    assert ray_places.temporary_folder() is None


def test_a_token_is_made_where_the_home_takes_none(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short / ".ray").touch()
    made = ray_places.token()
    assert len(made["RAY_AUTH_TOKEN"]) == 64
    assert ray_places.token() == made
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        with monkeypatch.context() as chosen:
            chosen.setenv(name, "disabled")
            assert ray_places.token() == {}
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert ray_places.token() == made
    (short / ".ray").unlink()
    (short / ".ray").mkdir()
    (short / ".ray" / "auth_token").write_text("x")
    assert ray_places.token() == {}


def test_the_cause_and_the_cure_are_said(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", str(short / "ray"))
    assert f"cannot write {short}/ray (Permission denied): set RAY_TMPDIR" in ray_places.why_not(denied)
    assert ray_places.why_not(Exception("slow")) == "slow: try --workers 0, which needs no Ray"
    monkeypatch.setenv("RAY_TMPDIR", str(deep(short)))
    with pytest.raises(UserError, match=r"Ray does not start on this .*whose name has 1\d\d bytes, where 43"):
        open_warm_actors(WorkerSettings(workers=1), 1)


_START = """
import os
from pipeline.engine.ray_session import open_warm_actors
from pipeline.engine.worker_settings import WorkerSettings

for _ in range(2):
    actors = open_warm_actors(WorkerSettings(workers=1), 1)
    asked = actors.ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()
    print(actors.ray.get(asked))
    actors.close()
"""


@pytest.mark.slow
def test_a_ray_starts_again_and_again_with_a_long_tmpdir_and_no_home(short: Path) -> None:
    # In a process of its own: Ray remembers the first token that a process has.
    (short / ".ray").touch()
    environment = os.environ | {"TMPDIR": str(deep(short)), "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", _START]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert first == second
    assert len(first) == 64
    assert not list(short.rglob("session_*"))
