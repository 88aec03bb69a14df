"""The actors of a command: those at work in a stage, and idle ones, which wait for the next stage.

An idle actor has imported what takes long and loads only its weights. It is taken when it is alive,
has freed the former stage's weights and is otherwise as new; else a new one takes its place.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.engine.fork_server import ForkServer
from pipeline.engine.ray_worker import Actor, Phase, Place, worker_class
from pipeline.engine.stage import Stage
from pipeline.engine.worker_settings import WorkerSettings

log = logging.getLogger(__name__)

# How long an actor without work is kept where others may want its place.
IDLE_SECONDS = 60.0
# Ray may need a moment to find out whether an actor lives.
SURE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class _IdleActor:
    """An actor without a stage; `released` is the reference of what its release returns."""

    handle: Any
    place: Place
    released: Any
    since: float


class WarmActors:
    """Gives actors to stages and takes them back. Not thread-safe; `ray` is the started library."""

    def __init__(
        self, ray: Any, settings: WorkerSettings, places: int, fork_server: ForkServer | None = None
    ) -> None:
        self.ray = ray
        self._settings, self._places, self._fork_server = settings, places, fork_server
        self._at_close: list[Callable[[], None]] = []
        self._class = worker_class(ray)
        self.started = 0
        """Actors that were started, those that took another's place included."""
        self._idle: list[_IdleActor] = []
        self._at_work: list[Actor] = []

    @property
    def idle(self) -> int:
        """Actors that wait for a stage."""
        return len(self._idle)

    def fits(self, settings: WorkerSettings, places: int) -> bool:
        """Whether stages with these settings have all they need here."""
        if not self.ray.is_initialized() or self._settings.ray_address != settings.ray_address:
            return False
        if settings.ray_address is not None:
            return True
        # A local Ray counted the GPUs, or was told that there are none, when it started.
        gpus = self._settings.gpus_per_worker >= settings.gpus_per_worker
        return gpus and self._places >= places and self._settings.dashboard == settings.dashboard

    def take_actor(self, stage: Stage[Any], runtime_env: dict[str, Any]) -> Actor:
        """An actor that sets the stage up: an idle one, or a new one, which may wait for its place."""
        place = Place(
            cpus=stage.resources.cpus,
            gpus=stage.resources.gpus,
            runtime_env=json.dumps(runtime_env, sort_keys=True),
        )
        handle = self._from_idle(place)
        served = handle is not None
        if handle is None:
            # Idle ones are of another kind: they may hold what the new one waits for.
            self._end_idle()
            handle = self._new(place, runtime_env)
            self.started += 1
        pickled = self.ray.cloudpickle.dumps(stage)
        actor = Actor(handle=handle, place=place, served=served, reference=handle.setup.remote(pickled))
        actor.listen(self.ray)
        self._at_work.append(actor)
        return actor

    def return_actor(self, actor: Actor) -> None:
        """Take an actor back that has nothing to do; it goes when another one waits for its place."""
        if any(one.phase is Phase.SETUP and one.node is None for one in self._at_work if one is not actor):
            self.end(actor)
            return
        self._at_work.remove(actor)
        released = actor.handle.release.remote()
        self._idle.append(
            _IdleActor(handle=actor.handle, place=actor.place, released=released, since=time.monotonic())
        )

    def end(self, actor: Actor) -> None:
        """End an actor at once."""
        self._at_work.remove(actor)
        self.ray.kill(actor.handle)

    def tidy(self) -> None:
        """On a cluster, end those who have waited long: others may want their places."""
        if self._settings.ray_address is not None:
            self._end_idle(lambda one: time.monotonic() - one.since > IDLE_SECONDS)

    def release_idle(self) -> None:
        """End idle ones that occupy GPUs, or places on a cluster."""
        self._end_idle(lambda one: bool(one.place.gpus) or self._settings.ray_address is not None)

    def close(self) -> None:
        """End all and Ray, where it was started for the command; else leave the cluster."""
        self.ray.shutdown()
        self._idle.clear()
        self._at_work.clear()
        if self._fork_server is not None:
            self._fork_server.close()
        for call in self._at_close:
            call()

    def at_close(self, call: Callable[[], None]) -> None:
        """Have something called when all is closed."""
        self._at_close.append(call)

    def _from_idle(self, place: Place) -> Any:
        for one in [one for one in self._idle if one.place == place]:
            self._idle.remove(one)
            if self._is_as_new(one):
                return one.handle
            log.info("a worker that waited for its next stage is replaced")
            self.ray.kill(one.handle)
        return None

    def _is_as_new(self, one: _IdleActor) -> bool:
        try:
            clean, _ = self.ray.get([one.released, one.handle.last_heartbeat.remote()], timeout=SURE_SECONDS)
        except self.ray.exceptions.RayError:
            # Dead, frozen, or unable to free what it had.
            return False
        return bool(clean)

    def _end_idle(self, wanted: Any = lambda one: True) -> None:
        for one in [one for one in self._idle if wanted(one)]:
            self._idle.remove(one)
            self.ray.kill(one.handle)

    def _new(self, place: Place, runtime_env: dict[str, Any]) -> Any:
        options: dict[str, Any] = {"num_cpus": place.cpus, "num_gpus": place.gpus, "max_restarts": 0}
        if runtime_env:
            options["runtime_env"] = runtime_env
        elif self._fork_server is not None and not place.gpus:
            options["runtime_env"] = {"py_executable": self._fork_server.python}
        if not place.gpus:
            # Spread what only needs CPUs; GPUs are packed, so that whole ones stay free.
            options["scheduling_strategy"] = "SPREAD"
        return self._class.options(**options).remote()
