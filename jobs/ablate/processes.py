"""Trainings as processes of their own: what they see of the machine, where their output goes, how they end.

A child has a process group of its own, so that Ctrl-C comes to it once: as SIGTERM from its parent, upon
which it writes a checkpoint. The kernel sends it the same signal when its parent dies.

Scores and pairs are made here, one training after the other, before a training that needs them begins. A
training begins when a slot is free and when it, those that run, and the evaluation of all fit the budget.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from jobs.ablate.costs import Begun, Cost, EvaluationCost
from jobs.ablate.scheduler import Scheduler
from jobs.ablate.trainings import FOLDER, Training
from pipeline.engine.warm import release_idle
from trainer.processes import stop_requests

if TYPE_CHECKING:
    from jobs.ablate.trainings import Settings
    from storage.run import Run


_VISIBLE = "CUDA_VISIBLE_DEVICES"
_PR_SET_PDEATHSIG = 1
# Lines of a log that are told of a training that failed.
_LAST = 3


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A child that ended: its exit code, the time by the clock, and its log."""

    name: str
    code: int
    at: float
    log: Path


class Children:
    """At most `slots` gpa commands side by side, each in the lowest slot that is free.

    Leaving it by an error, Ctrl-C or SIGTERM stops those that run and waits for their checkpoints.
    """

    def __init__(self, slots: int, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self._slots, self._clock, self._say = slots, clock, say
        self._running: dict[int, tuple[str, Path, subprocess.Popen[bytes]]] = {}
        self._ended: SimpleQueue[tuple[int, int, float]] = SimpleQueue()

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = [process for _, _, process in self._running.values() if process.poll() is None]
        if left:
            self._say(f"waiting for the checkpoints of trainings that run ({len(left)})")
        for process in left:
            process.send_signal(signal.SIGTERM)
        for process in left:
            process.wait()

    def start(self, name: str, words: Sequence[str], log: Path) -> None:
        """Start a gpa command in a free slot; what it prints goes to `log`, which is written anew."""
        release_idle()
        slot = min(set(range(self._slots)) - self._running.keys())
        log.parent.mkdir(parents=True, exist_ok=True)
        # A signal that comes while the process is made would leave one that nobody knows.
        with stop_requests() as stop, log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.main", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(slot, os.environ, _devices()),
                process_group=0,
                preexec_fn=_end_with_parent(),
            )
            self._running[slot] = (name, log, process)
        if stop.name is not None:
            signal.raise_signal(signal.Signals[stop.name])
        threading.Thread(target=self._watch, args=(slot, process), daemon=True).start()

    def next(self) -> Ended:
        """Wait for the next child to end."""
        slot, code, at = self._ended.get()
        name, log, _ = self._running.pop(slot)
        return Ended(name=name, code=code, at=at, log=log)

    def _watch(self, slot: int, process: subprocess.Popen[bytes]) -> None:
        # The time is taken here, since whoever asks may be busy for long when a child ends.
        code = process.wait()
        self._ended.put((slot, code, self._clock()))


def environment(slot: int, given: Mapping[str, str], devices: int) -> dict[str, str]:
    """The environment of a child: of the CUDA devices that are visible here, it sees one.

    `devices` is their number. A list in CUDA_VISIBLE_DEVICES holds, up to that number.
    """
    if not devices:
        return dict(given)
    listed = given.get(_VISIBLE)
    names = [str(number) for number in range(devices)] if listed is None else listed.split(",")[:devices]
    return {**given, _VISIBLE: names[slot % len(names)].strip()}


def last_words(log: Path) -> str:
    """The last lines of a log in one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "; ".join([line.strip() for line in lines if line.strip()][-_LAST:]) or "it said nothing"


def _devices() -> int:
    import torch

    # Counts without starting CUDA in this process.
    return torch.cuda.device_count()


def _end_with_parent() -> Callable[[], None]:
    # Loaded before the fork: behind it, other threads of the parent may hold locks that nobody releases.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


class SideBySide(Scheduler):
    """A call of gpa ablate that runs up to `settings.parallel` trainings at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begun: dict[str, Begun] = {}
        self._children = Children(self.settings.parallel, self.clock, self.say)

    def evaluation_cost(self) -> EvaluationCost:
        """What an evaluation of all that is trained or running lacks, and what one more training adds."""
        return super().evaluation_cost().with_more(len(self._begun))

    def needed(self, cost: Cost) -> float:
        """Seconds until a training of this cost and those that run have ended and are evaluated."""
        now, pace = self.clock(), self._pace[0]
        left = [one.at + one.told * pace / one.pace - now for one in self._begun.values()]
        return max([cost.score + cost.train, *left]) + cost.evaluate

    def _round(self, trainings: Sequence[Training]) -> None:
        with self._children:
            for training in trainings:
                self._free_a_slot()
                self._attempt(training)
            self._end_all()

    def _free_a_slot(self) -> None:
        if len(self._begun) == self.settings.parallel:
            self._end_one()
            if self.evaluates_early:
                # Beside trainings, an evaluation would look slower than it is.
                self._end_all()
        if self.evaluates_early and not self._begun:
            self._catch_up()

    def _begin(self, training: Training, begun: Begun) -> None:
        own = self._prepared(training)
        commands = self.settings.commands
        log = self.run.path / FOLDER / "logs" / f"{training.name}.txt"
        self.say(f"$ {commands.line('train-dpo', *own)}\n  its output: {log}")
        self._children.start(training.name, ["train-dpo", *commands.words("train-dpo", *own)], log)
        self._begun[training.name] = begun

    def _end_all(self) -> None:
        while self._begun:
            self._end_one()

    def _end_one(self) -> None:
        ended = self._children.next()
        begun = self._begun.pop(ended.name)
        if ended.code:
            said = f"gpa train-dpo ended with {ended.code}: {last_words(ended.log)} (all of it: {ended.log})"
            self._fail(ended.name, said)
            return
        self.say(f"{ended.name} is trained")
        self._learn(begun, ended.at)


def make_scheduler(run: Run, settings: Settings, say: Callable[[str], None]) -> Scheduler:
    """The scheduler that the settings ask for: in this process, or side by side."""
    kind = Scheduler if settings.parallel == 1 else SideBySide
    return kind(run=run, settings=settings, say=say)


def share_of_threads(threads: int | None, parallel: int) -> int:
    """The CPU threads of one of so many trainings, of those that a preset gives one."""
    return max(1, (threads or os.cpu_count() or 1) // parallel)
