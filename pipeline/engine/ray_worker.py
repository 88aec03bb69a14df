"""One actor: a stage with its weights, a thread that says whether it moves on, and its view by the driver."""

from __future__ import annotations

import enum
import os
import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.stage import Stage, Task, TaskOutcome, attempt, beat, idle_seconds, settle_threads

# The methods of a group have a thread of their own, so that a busy actor can answer.
PULSE_GROUP = "pulse"


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """Where an actor lives and how many seconds ago its work moved on."""

    node: str
    pid: int
    idle: float


class RayWorker:
    """Does the tasks of one stage, one at a time; what it makes it writes itself."""

    def __init__(self, stage: Stage[Any]) -> None:
        self._stage = stage

    def setup(self) -> None:
        """Load the weights. Raises what the stage raises."""
        beat()
        self._stage.setup()
        settle_threads(self._stage.resources.gpus)

    def process(self, task: Task) -> TaskOutcome:
        """Do one task."""
        beat()
        return attempt(self._stage, task)

    def pulse(self) -> Pulse:
        """A sign of life."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Pulse(node=node, pid=os.getpid(), idle=idle_seconds())


def worker_class(ray: Any) -> Any:
    """The actor class, made here because Ray is imported only where it is used."""
    # ray.method marks the function, which `RayWorker` itself, used without Ray, does not need.
    marked = type("RayWorker", (RayWorker,), {"pulse": ray.method(concurrency_group=PULSE_GROUP)(_pulse)})
    return ray.remote(concurrency_groups={PULSE_GROUP: 1})(marked)


def _pulse(self: RayWorker) -> Pulse:
    return RayWorker.pulse(self)


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
