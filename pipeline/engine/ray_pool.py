"""The actors of one stage: as many as there is work and room for, each with one task in flight.

An actor that dies, whose node or GPU dies, or that hangs is replaced and its task done again, and so is one
that makes nothing but errors while others do not. A task that keeps
killing its workers is taken apart, and the candidate that does it is given up with its reason.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from pipeline.engine.ray_worker import Actor, BrokenDevice, CannotStart, Phase
from pipeline.engine.stage import WORKER_LOST, Stage, Task, TaskOutcome, failed_outcome, split_task
from pipeline.engine.streaks import Streaks
from pipeline.engine.warm_actors import IDLE_SECONDS, SURE_SECONDS, WarmActors
from pipeline.engine.worker_settings import WorkerSettings
from storage.errors import UserError

log = logging.getLogger(__name__)

MAX_DEATHS = 3
# A node takes down whatever runs on it, so its death says little about a task.
_MAX_NODE_DEATHS = 10
# Loading weights can take long without a sign of progress.
_SETUP_SECONDS = 1800.0
_WATCH_SECONDS = 5.0
_PLACE_WARNING_SECONDS = 60.0
# Ray says this of an actor that it takes for forgotten, which ours are not: the machine was busy, say.
_FORGOTTEN = "all references to the actor were removed"
_MAX_CANCELLED_SECONDS = 60.0
_CANCELLED_PAUSE_SECONDS = 0.2


class Pool:
    """Feed it tasks, poll it for outcomes, close it when no more tasks come. Not thread-safe."""

    def __init__(self, warm_actors: WarmActors, stage: Stage[Any], settings: WorkerSettings) -> None:
        self._warm_actors, self._ray, self._stage, self._settings = (
            warm_actors,
            warm_actors.ray,
            stage,
            settings,
        )
        self._runtime_env = settings.read_runtime_env()
        self._queue: deque[Task] = deque()
        self._actors: list[Actor] = []
        self._closed, self._abandoned, self._fed = False, False, 0
        self._deaths: dict[str, int] = {}
        self._node_deaths: dict[str, int] = {}
        self._setup_deaths = 0
        self._streaks = Streaks()
        self._cancelled_since: float | None = None
        self._watched = self._placed = time.monotonic()

    def feed(self, tasks: Iterable[Task]) -> None:
        """Add tasks; they begin with the next poll."""
        before = len(self._queue)
        self._queue.extend(tasks)
        self._fed += len(self._queue) - before

    def close(self) -> None:
        """No more tasks will come."""
        self._closed = True

    def abandon_queue(self) -> None:
        """Forget what has not begun; what is in flight goes on, and is not done again if its worker dies."""
        self._queue.clear()
        self._closed = self._abandoned = True
        for actor in [one for one in self._actors if one.phase is not Phase.BUSY]:
            self._remove(actor)

    def stop(self) -> None:
        """Let the actors go that have nothing to do, and end the others at once.

        What these were doing is done again by the next run.
        """
        for actor in sorted(self._actors, key=lambda one: one.phase is Phase.IDLE):
            self._remove(actor, keep=actor.phase is Phase.IDLE)

    @property
    def size(self) -> int:
        """Actors there are, those that wait for a place included."""
        return len(self._actors)

    @property
    def in_flight(self) -> int:
        """Tasks that an actor is busy with."""
        return sum(actor.phase is Phase.BUSY for actor in self._actors)

    @property
    def finished(self) -> bool:
        """Whether it is closed and every task has its outcome."""
        return self._closed and not self._queue and not self.in_flight

    def poll(self, seconds: float) -> list[TaskOutcome]:
        """Hand out what can be, wait up to `seconds` for a result, return what came of it.

        Raises what `setup` raises, and UserError when workers cannot be set up.
        """
        self._scale()
        self._hand_out()
        waiting = {actor.reference: actor for actor in self._actors if actor.reference is not None}
        outcomes: list[TaskOutcome] = []
        if waiting:
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=seconds)
            for reference in ready:
                outcomes += self._collect(waiting[reference])
        elif not self.finished:
            time.sleep(seconds)
        outcomes += self._watch()
        self._hand_out()
        if not self._queue and not self.in_flight:
            outcomes += self._streaks.release_all()
        return outcomes

    def _scale(self) -> None:
        """As many actors as there is work for, within the bounds."""
        if self._abandoned:
            return
        most = self._settings.workers
        least = min(self._settings.min_workers, self._fed)
        wanted = max(least, min(most, self.in_flight + len(self._queue)))
        while len(self._actors) < wanted:
            self._actors.append(self._warm_actors.take_actor(self._stage, self._runtime_env))
        patience = 0.0 if self._closed else IDLE_SECONDS
        for actor in [one for one in self._actors if one.idle_for() > patience]:
            if len(self._actors) > wanted:
                self._remove(actor, keep=True)

    def _hand_out(self) -> None:
        for actor in self._actors:
            if actor.phase is Phase.IDLE and self._queue:
                actor.begin(self._queue.popleft())

    def _collect(self, actor: Actor) -> list[TaskOutcome]:
        errors = self._ray.exceptions
        try:
            outcome: TaskOutcome | None = self._ray.get(actor.reference)
        except errors.RayTaskError as error:
            # Only setup can raise, but for a GPU: attempt() turns what a task raises into an outcome.
            cause = _cause(error)
            if isinstance(cause, BrokenDevice):
                return self._bury(actor, f"its GPU no longer works: {cause}")
            raise self._cannot_start(cause) if isinstance(cause, CannotStart) else cause from error
        except errors.RuntimeEnvSetupError as error:
            raise UserError(
                f"--runtime-env {self._settings.runtime_env} cannot be set up ({error}): correct it"
            ) from error
        except errors.LocalRayletDiedError as error:
            raise UserError("Ray ended on this machine: run the same command again") from error
        except errors.RayError as error:
            if "creation task" in str(error):
                raise self._cannot_start(error) from error
            # An actor that cannot be reached may be alive behind a broken network, or its node just went.
            unsure = isinstance(error, errors.ActorUnavailableError)
            if actor.phase is Phase.SETUP and _FORGOTTEN in str(error):
                self._replace_cancelled(actor, error)
                return []
            return self._bury(actor, str(error).splitlines()[0], not unsure or self._has_died(actor))
        if actor.phase is Phase.SETUP:
            self._setup_deaths = 0
            self._cancelled_since = None
        task = actor.task
        actor.rest()
        if outcome is None or task is None:
            return []
        certain = self._streaks.add(actor, task, outcome)
        again = self._streaks.sick(actor)
        if again:
            log.warning(
                "%s: a worker is replaced (%d errors in a row, while other tasks succeed), and its tasks are "
                "tried elsewhere", self._stage.name, len(again),
            )  # fmt: skip
            self._queue.extendleft(reversed(again))
            self._remove(actor)
        return certain

    def _watch(self) -> list[TaskOutcome]:
        """Ask the actors for signs of progress and bury those that hang or do not answer."""
        now, limit = time.monotonic(), self._settings.stall_timeout
        self._warn_when_nothing_is_placed(now)
        every = min(_WATCH_SECONDS, limit / 4) if limit else _WATCH_SECONDS
        if now - self._watched < every:
            return []
        # If this process itself stood still, silence says nothing about the actors.
        was_away = now - self._watched > 3 * every + 1
        self._watched = now
        self._warm_actors.tidy()
        outcomes: list[TaskOutcome] = []
        for actor in list(self._actors):
            actor.listen(self._ray)
            if was_away:
                actor.forgive()
            patience = limit if actor.phase is Phase.BUSY else max(limit, _SETUP_SECONDS)
            if limit and actor.phase is not Phase.IDLE and actor.stalled_for() > patience:
                outcomes += self._bury(actor, f"no progress for {actor.stalled_for():.0f} s")
        return outcomes

    def _bury(self, actor: Actor, why: str, reachable: bool = True) -> list[TaskOutcome]:
        """Take an actor out; put its task back, unless it has cost too many workers."""
        phase, task = actor.phase, actor.task
        node_alive = reachable and self._is_alive(actor.node)
        self._remove(actor)
        log.warning("%s: a worker is replaced (%s)", self._stage.name, why)
        certain = self._streaks.release(actor)
        if task is not None and not self._abandoned:
            return [*certain, *self._redo(task, node_alive, why)]
        # One that served before may have died before it was asked: its successor will tell.
        if phase is Phase.SETUP and node_alive and not actor.served:
            self._setup_deaths += 1
            if self._setup_deaths >= MAX_DEATHS:
                raise UserError(
                    f"workers of {self._stage.name} died {MAX_DEATHS} times while loading their weights "
                    "(out of memory, most often): use fewer --workers"
                )
        return certain

    def _replace_cancelled(self, actor: Actor, error: Exception) -> None:
        """Take out an actor that Ray cancelled by mistake, which says nothing about the stage."""
        self._remove(actor)
        now, name = time.monotonic(), self._stage.name
        log.warning("%s: a worker is asked for again (Ray says that %s)", name, _FORGOTTEN)
        self._cancelled_since = self._cancelled_since or now
        if now - self._cancelled_since > _MAX_CANCELLED_SECONDS:
            raise UserError(
                f"for {_MAX_CANCELLED_SECONDS:.0f} s Ray has cancelled every worker of {name} (it says that "
                f"{_FORGOTTEN}): has only one side tokens (RAY_AUTH_MODE)? see the logs of its head node"
            )
        time.sleep(_CANCELLED_PAUSE_SECONDS)

    def _redo(self, task: Task, node_alive: bool, why: str) -> list[TaskOutcome]:
        counts, most = (self._deaths, MAX_DEATHS) if node_alive else (self._node_deaths, _MAX_NODE_DEATHS)
        deaths = counts.get(task.key, 0) + 1
        log.warning("%s: task %s cost a worker (%d of %d)", self._stage.name, task.key, deaths, most)
        if deaths < most:
            # Before the last try a task is taken apart: one candidate must not take the others with it.
            parts = split_task(task) if deaths == most - 1 else [task]
            counts.update({part.key: deaths for part in parts})
            self._queue.extendleft(reversed(parts))
            return []
        reason = f"killed its worker {deaths} times" if node_alive else f"its node died {deaths} times"
        return [failed_outcome(task, WORKER_LOST, f"{reason}, at last: {why}")]

    def _remove(self, actor: Actor, *, keep: bool = False) -> None:
        self._actors.remove(actor)
        if keep:
            self._warm_actors.return_actor(actor)
        else:
            self._warm_actors.end(actor)

    def _cannot_start(self, error: Exception) -> UserError:
        return UserError(
            f"a worker of {self._stage.name} cannot start ({_last_line(error)}): it needs this gpa "
            "in its Python environment (--runtime-env, or what the nodes have installed)"
        )

    def _has_died(self, actor: Actor) -> bool:
        """Whether the process of an actor is known to have ended; Ray may need a moment to find out."""
        errors = self._ray.exceptions
        try:
            self._ray.get(actor.handle.last_heartbeat.remote(), timeout=SURE_SECONDS)
        except errors.ActorDiedError:
            return True
        except errors.RayError:
            return False
        return False

    def _is_alive(self, node: str | None) -> bool:
        if node is None:
            return True
        return any(one["NodeID"] == node and one["Alive"] for one in self._ray.nodes())

    def _warn_when_nothing_is_placed(self, now: float) -> None:
        if not self._actors or any(actor.node is not None for actor in self._actors):
            self._placed = now
        elif now - self._placed > _PLACE_WARNING_SECONDS:
            self._placed = now
            needs, has = self._stage.resources, self._ray.cluster_resources()
            log.warning(
                "%s: no worker has answered for %.0f s; each needs %g CPUs and %g GPUs, the cluster has "
                "%g and %g in all, and perhaps other work on them",
                self._stage.name, _PLACE_WARNING_SECONDS, needs.cpus, needs.gpus,
                has.get("CPU", 0), has.get("GPU", 0),
            )  # fmt: skip


def _last_line(error: Exception) -> str:
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


def _cause(error: Any) -> Exception:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else UserError(str(error))
