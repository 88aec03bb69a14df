"""One actor: a stage with its weights, a thread that says whether it moves on, and its view by the driver.

Its process outlives the stage: it has imported what takes long, and serves the next stage of the command.
"""

from __future__ import annotations

import enum
import gc
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.imports import swift_imports
from pipeline.engine.stage import (
    Stage,
    Task,
    TaskOutcome,
    attempt,
    device_fault,
    heartbeat,
    idle_seconds,
    settle_threads,
)

# The methods of a group have a thread of their own, so that a busy actor can answer.
_HEARTBEAT_GROUP = "heartbeat"


class CannotStart(Exception):
    """The stage cannot be unpickled where the worker is: something is not installed there."""


class BrokenDevice(Exception):
    """The GPU of the worker no longer works, and will not before the process is another one."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Where an actor lives and how many seconds ago its work moved on."""

    node: str
    pid: int
    idle: float


class RayWorker:
    """Does the tasks of one stage at a time, one after the other; what it makes it writes itself."""

    def __init__(self) -> None:
        self._stage: Stage[Any] | None = None
        self._before: Traits | None = None
        self._environment: dict[str, str] = {}

    def setup(self, pickled: bytes) -> None:
        """Take a stage and load its weights. Raises what the stage raises, and CannotStart."""
        heartbeat()
        with swift_imports():
            self._stage = _unpickled(pickled)
            self._before, self._environment = _traits(), dict(os.environ)
            _seed()
            self._stage.setup()
        settle_threads(self._stage.resources.gpus)

    def release(self) -> bool:
        """Free the weights; whether another stage finds the process as a new one would be."""
        self._stage = None
        _put_back(self._environment)
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None:
            if "torch._dynamo" in sys.modules:
                # Compiled code is kept by function: it would count against that of the next model.
                torch._dynamo.reset()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        return self._before == _traits()

    def process(self, task: Task) -> TaskOutcome:
        """Do one task. Raises BrokenDevice when it failed and the GPU with it."""
        assert self._stage is not None, "setup comes first"
        heartbeat()
        outcome = attempt(self._stage, task)
        fault = device_fault() if outcome.is_error else None
        if fault is not None:
            raise BrokenDevice(fault)
        return outcome

    def last_heartbeat(self) -> Heartbeat:
        """A sign of life."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Heartbeat(node=node, pid=os.getpid(), idle=idle_seconds())


@dataclass(frozen=True)
class Traits:
    """What of a process can decide the results of the next stage and is not put back.

    `torch` is None while it is not imported.
    """

    folder: str
    torch: tuple[Any, ...] | None


def _traits() -> Traits:
    """Those of this process."""
    torch = sys.modules.get("torch")
    flags = None
    if torch is not None:
        cudnn = torch.backends.cudnn
        flags = (
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        )
    return Traits(os.getcwd(), flags)


def _put_back(environment: dict[str, str]) -> None:
    """Undo what a stage changed, or what it imported: cv2 does."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _seed() -> None:
    """Begin every stage with the same random numbers, whatever a new process or the former stage drew."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


def _unpickled(pickled: bytes) -> Stage[Any]:
    from ray import cloudpickle

    try:
        stage: Stage[Any] = cloudpickle.loads(pickled)
    except (ImportError, AttributeError) as error:
        raise CannotStart(str(error)) from error
    return stage


def worker_class(ray: Any) -> Any:
    """The actor class, made here because Ray is imported only where it is used."""
    # ray.method marks the function, which `RayWorker` itself, used without Ray, does not need.
    marked = type(
        "RayWorker",
        (RayWorker,),
        {"last_heartbeat": ray.method(concurrency_group=_HEARTBEAT_GROUP)(_last_heartbeat)},
    )
    return ray.remote(concurrency_groups={_HEARTBEAT_GROUP: 1})(marked)


def _last_heartbeat(self: RayWorker) -> Heartbeat:
    return RayWorker.last_heartbeat(self)


class Phase(enum.Enum):
    """Loading its weights (or waiting for a place), without work, or with a task."""

    SETUP = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Place:
    """What an actor occupies and the environment it lives in: the stages of one place can share actors.

    `runtime_env` is JSON.
    """

    cpus: float
    gpus: float
    runtime_env: str = "{}"


@dataclass(kw_only=True, eq=False)
class Actor:
    """An actor's handle, its task, the reference of the awaited result, and when it was last heard."""

    handle: Any
    reference: Any
    place: Place
    served: bool = False
    """Whether it had a stage before this one."""
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
            self._asked = self.handle.last_heartbeat.remote()
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return
        try:
            found: Heartbeat = ray.get(ready[0])
        except ray.exceptions.RayError:
            # Its death is told by the result that it owes.
            return
        self.node, self._heard, self._idle = found.node, time.monotonic(), found.idle
        self._asked = self.handle.last_heartbeat.remote()

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
