"""What the driver knows of one actor."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.ray_worker import Pulse, worker_class
from pipeline.stages.base import Stage, Task


class Phase(enum.Enum):
    """Loading its weights (or waiting for a place), without work, or with a task."""

    SETUP = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()


@dataclass(kw_only=True, eq=False)
class Actor:
    """An actor's handle, its task, the reference of the awaited result, and when it was last heard."""

    handle: Any
    reference: Any
    phase: Phase = Phase.SETUP
    task: Task | None = None
    node: str | None = None
    since: float = field(default_factory=time.monotonic)
    _asked: Any = None
    _heard: float | None = None
    _idle: float = 0.0

    def begin(self, task: Task) -> None:
        """Give it a task."""
        self.task, self.phase, self.reference = task, Phase.BUSY, self.handle.process.remote(task)
        self.since, self._idle = time.monotonic(), 0.0

    def rest(self) -> None:
        """It is set up, or its task is done."""
        self.task, self.phase, self.reference, self.since = None, Phase.IDLE, None, time.monotonic()

    def idle_for(self) -> float:
        """Seconds without a task; below 0 while it has one or is being set up."""
        return time.monotonic() - self.since if self.phase is Phase.IDLE else -1.0

    def listen(self, ray: Any) -> None:
        """Take its sign of life if there is one, and ask for the next."""
        if self._asked is None:
            self._asked = self.handle.pulse.remote()
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return
        try:
            pulse: Pulse = ray.get(ready[0])
        except ray.exceptions.RayError:
            # Its death is told by the result that it owes.
            return
        self.node, self._heard, self._idle = pulse.node, time.monotonic(), pulse.idle
        self._asked = self.handle.pulse.remote()

    def forgive(self) -> None:
        """Count its silence from now on."""
        self._heard = None if self._heard is None else time.monotonic()

    def stalled_for(self) -> float:
        """Seconds without progress, or without a sign of life; 0 before the first: it waits for its place."""
        if self._heard is None:
            return 0.0
        silent = time.monotonic() - self._heard
        # The last answer may be of the time before the present task.
        return min(max(silent, self._idle + silent), time.monotonic() - self.since)


def start_actor(ray: Any, stage: Stage[Any], runtime_env: dict[str, Any]) -> Actor:
    """Ask for an actor and have it set up; it may have to wait for its place."""
    options: dict[str, Any] = {
        "num_cpus": stage.resources.cpus,
        "num_gpus": stage.resources.gpus,
        "max_restarts": 0,
    }
    if runtime_env:
        options["runtime_env"] = runtime_env
    if not stage.resources.gpus:
        # Spread what only needs CPUs; GPUs are packed, so that whole ones stay free.
        options["scheduling_strategy"] = "SPREAD"
    handle = worker_class(ray).options(**options).remote(stage)
    actor = Actor(handle=handle, reference=handle.setup.remote())
    actor.listen(ray)
    return actor
