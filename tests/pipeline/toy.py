"""Stages without a model, whose tasks behave as their key says. Ray workers import this module."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.stages.base import Resources, TaskOutcome
from storage.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ToyTask:
    key: str

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.key,)


@dataclass(kw_only=True)
class ToyStage:
    """Every try of a task leaves a line in `folder`/key, so that tests can count them."""

    folder: Path
    trouble: str = ""
    resources: Resources = field(default_factory=lambda: Resources(cpus=1))
    name: str = "toy"

    def setup(self) -> None:
        if self.trouble == "no weights":
            raise UserError("toy has no weights: make some")
        if self.trouble == "setup kills":
            os.kill(os.getpid(), signal.SIGKILL)

    def process(self, task: ToyTask) -> TaskOutcome:
        path = self.folder / task.key
        with path.open("a") as file:
            file.write("x\n")
        if task.key.startswith("raises"):
            raise ValueError(f"{task.key} is bad")
        if task.key.startswith("kills") or (task.key.startswith("once") and path.read_text() == "x\n"):
            os.kill(os.getpid(), signal.SIGKILL)
        return TaskOutcome(key=task.key, done=(task.key,))


def tries(folder: Path, key: str) -> int:
    return (folder / key).read_text().count("x")
