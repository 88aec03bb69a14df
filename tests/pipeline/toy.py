"""Stages without a model, whose tasks behave as their key says. Ray workers import this module."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from pipeline.engine.stage import Resources, TaskOutcome, heartbeat
from storage.errors import DiskError, UserError


@dataclass(frozen=True, kw_only=True)
class ToyTask:
    key: str

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.key,)


@dataclass(frozen=True, kw_only=True)
class ToyChunk:
    """Several tasks as one, which can be taken apart."""

    ids: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.ids[0]

    def split(self) -> tuple[ToyChunk, ...]:
        return tuple(ToyChunk(ids=(one,)) for one in self.ids)


class Absent:
    """What only unpickles where a module is that is nowhere."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _import_absent, ()


def _import_absent() -> None:
    raise ModuleNotFoundError("No module named 'gpa_absent'")


class Weights:
    """What a stage loads, with a reference to itself, so that only the collector frees it."""

    alive: ClassVar[weakref.WeakSet[Weights]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.itself = self
        self.alive.add(self)


@dataclass(kw_only=True)
class ToyStage:
    """Every try of a task leaves a line in `folder`/key, so that tests can count them."""

    folder: Path
    trouble: str = ""
    luggage: Any = None
    resources: Resources = field(default_factory=lambda: Resources(cpus=1))
    name: str = "toy"

    def setup(self) -> None:
        if self.trouble == "no weights":
            raise UserError("toy has no weights: make some")
        if self.trouble == "setup kills":
            os.kill(os.getpid(), signal.SIGKILL)
        self.weights = Weights()

    def process(self, task: ToyTask | ToyChunk) -> TaskOutcome:
        for one in task.ids:
            self._do(one)
        return TaskOutcome(key=task.key, done=tuple(task.ids))

    def _do(self, key: str) -> None:
        path = self.folder / key
        with path.open("a") as file:
            file.write("x\n")
        if key.startswith("raises"):
            raise ValueError(f"{key} is bad")
        if key.startswith("poisons") and path.read_text() == "x\n":
            _break_device()
        if _broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if key.startswith("spoils") and path.read_text() == "x\n":
            _spoilt.append(key)
        if _spoilt:
            raise RuntimeError("the cache of this process is spoilt")
        if key.startswith("full"):
            raise DiskError("cannot write x: the disk is full")
        if key.startswith("sleeps"):
            time.sleep(float(key.split("-")[1]))
        first = path.read_text() == "x\n"
        if key.startswith("hangs") and first:
            time.sleep(600)
        while key.startswith("freezes") and first:
            # Again and again: whoever continues a stopped process does not end this.
            os.kill(os.getpid(), signal.SIGSTOP)
        if key.startswith("beats"):
            self._beat_until_begun_again("hangs", "freezes")
        if key.startswith("env"):
            path.write_text(os.environ.get("GPA_TOY", "") + " " + sys.executable)
        if key.startswith("sets"):
            os.environ["GPA_TOY"] = "left behind"
        if key.startswith("litters"):
            _litter()
        if key.startswith("looks"):
            path.write_text(json.dumps(_looks()))
        if key.startswith("kills") or (key.startswith("once") and first):
            os.kill(os.getpid(), signal.SIGKILL)

    def _beat_until_begun_again(self, *others: str) -> None:
        """Slow, but alive, for longer than it takes until others are given up."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            heartbeat()
            if all((self.folder / one).exists() and tries(self.folder, one) == 2 for one in others):
                return
            time.sleep(0.2)


_broken: list[str] = []
_spoilt: list[str] = []


def _break_device() -> None:
    """From now on this process is as one whose GPU has had a sticky error."""
    from pipeline.engine import ray_worker

    _broken.append("an illegal memory access was encountered")
    ray_worker.device_fault = lambda: _broken[0]


def _litter() -> None:
    import torch

    torch.set_default_dtype(torch.float64)


def _looks() -> dict[str, Any]:
    """What a task finds in its process, and what it draws there."""
    import torch

    return {
        "pid": os.getpid(),
        "parent": psutil.Process().parent().cmdline(),
        "weights": len(Weights.alive),
        "threads": torch.get_num_threads(),
        "environment": os.environ.get("GPA_TOY"),
        "draws": torch.rand(4).tolist(),
    }


def tries(folder: Path, key: str) -> int:
    return (folder / key).read_text().count("x")
