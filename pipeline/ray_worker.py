"""One actor: a stage with its weights, and a second thread that says whether it moves on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pipeline.pulse import beat, idle_seconds
from pipeline.runners import settle_threads
from pipeline.stages.base import Stage, Task, TaskOutcome, attempt

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
