"""Workers outlive their stage, and the next stage finds them as new."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from jobs.head_start import begin_sampling, begin_scoring
from jobs.settings.from_dataclass import names_of
from pipeline.engine import ray_session, warm, warm_actors
from pipeline.engine.ray_runner import RayRunner
from pipeline.engine.stage import Resources
from pipeline.engine.warm import head_start, kept_warm, warm_actors_for
from pipeline.engine.warm_actors import WarmActors
from pipeline.engine.worker_settings import WorkerSettings
from storage.errors import UserError
from storage.run import Run
from tests.jobs.test_cli import geometry_options, gpa, tiny_options
from tests.pipeline.toy import ToyStage, ToyTask, tries


def look(folder: Path, *keys: str, cpus: float = 1) -> dict[str, Any]:
    """What the first of these tasks, done by one worker, finds in its process."""
    folder.mkdir()
    # As real stages do, it has torch imported before it is set up.
    stage = ToyStage(folder=folder, resources=Resources(cpus=cpus), luggage=torch.float32)
    tasks = [ToyTask(key=key) for key in ("looks", *keys)]
    outcomes = list(RayRunner(settings=WorkerSettings(workers=1)).run(stage, tasks))
    assert sorted(outcome.key for outcome in outcomes) == sorted(task.key for task in tasks)
    found: dict[str, Any] = json.loads((folder / "looks").read_text())
    return found


@pytest.mark.slow
def test_a_stage_finds_the_worker_of_the_former_one_as_new(tmp_path: Path) -> None:
    alone = look(tmp_path / "alone")
    with kept_warm():
        first = look(tmp_path / "first", "sets")
        with kept_warm():
            second = look(tmp_path / "second", "litters")
        assert second == first, "one process, and one set of weights at a time"
        assert whoever(second) == whoever(alone), "a warm worker is as a new one"

        third = look(tmp_path / "third")
        assert third["pid"] != second["pid"], "what a stage left behind would reach the next"
        os.kill(third["pid"], signal.SIGKILL)
        fourth = look(tmp_path / "fourth")
        assert fourth["pid"] != third["pid"], "a dead worker is replaced"
        assert look(tmp_path / "fifth", cpus=0.5)["pid"] != fourth["pid"], "another place, another worker"

        import ray

        assert ray.is_initialized()
    assert not ray.is_initialized()
    with pytest.raises(ProcessLookupError):
        os.kill(fourth["pid"], 0)


@pytest.mark.slow
def test_one_process_samples_and_scores(
    tiny_model: Path, tiny_geometry: Path, prompts_file: Path, tmp_path: Path
) -> None:
    """Same bytes as by a process for each, although libraries change the environment when they come."""
    sample = [*tiny_options(tiny_model, prompts_file), "--workers", 1]
    score = [*geometry_options(tiny_geometry), "--workers", 1]
    with kept_warm():
        for number in (1, 2):
            assert gpa("sample", tmp_path / f"warm-{number}", *sample).exit_code == 0
            assert gpa("score", tmp_path / f"warm-{number}", *score).exit_code == 0
        with warm_actors_for(WorkerSettings(workers=1), 1) as actors:
            assert actors.started == 1
    assert gpa("sample", tmp_path / "cold", *sample).exit_code == 0
    assert gpa("score", tmp_path / "cold", *score).exit_code == 0
    cold, *warm_ones = (results(tmp_path / name) for name in ("cold", "warm-1", "warm-2"))
    assert warm_ones == [cold, cold]


def results(run: Path) -> dict[str, Any]:
    """The bytes of a run's media, and its scores."""
    media = {path.name: path.read_bytes() for path in (run / "media").rglob("*") if path.is_file()}
    scores = Run.open(run).rows("scores").drop_columns("seconds").to_pylist()
    return media | {"scores": sorted(scores, key=lambda row: str(row["candidate_id"]))}


def whoever(found: dict[str, Any]) -> dict[str, Any]:
    """What was found, whichever process it was."""
    return {name: value for name, value in found.items() if name not in ("pid", "parent")}


def forks() -> list[str]:
    """The nurseries, and what they forked, below this process."""
    below = psutil.Process().children(recursive=True)
    commands = [" ".join(one.cmdline()) for one in below if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in commands if "fork_server" in one]


@pytest.mark.slow
def test_after_a_head_start_workers_are_forks_that_find_what_new_ones_find(tmp_path: Path) -> None:
    alone = look(tmp_path / "alone")
    settings = WorkerSettings(workers=1)
    with kept_warm():
        head_start(settings, 1, ["torch", "tests.pipeline.toy"])
        head_start(settings, 1, ["antigravity"])  # one is enough
        forked = look(tmp_path / "forked", "once")
        assert "pipeline.engine.fork_server" in forked["parent"]
        assert "pipeline.engine.fork_server" not in alone["parent"]
        assert tries(tmp_path / "forked", "once") == 2, "a fork that dies is replaced"
        assert whoever(forked) == whoever(alone)
        assert forks(), "Ray ended the process that forks with a fork"
    assert not forks()


@pytest.mark.slow
def test_a_head_start_that_nobody_needs_leaves_nothing(tmp_path: Path) -> None:
    head_start(WorkerSettings(workers=1), 1, ["json"])
    assert not forks(), "outside of a block nobody would end it"
    with kept_warm():
        head_start(WorkerSettings(workers=1), 1, ["json"])
    assert not forks()
    import ray

    assert not ray.is_initialized()


def test_whoever_comes_for_workers_is_told_why_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("Ray does not start")

    monkeypatch.setattr(ray_session, "open_warm_actors", fail)
    settings = WorkerSettings(workers=1)
    with kept_warm():
        head_start(settings, 1, ["json"])
        with pytest.raises(UserError, match="Ray does not start"), warm_actors_for(settings, 1):
            pass
    with kept_warm():
        head_start(settings, 1, ["json"])


def test_only_a_run_that_surely_needs_workers_has_a_head_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(warm, "head_start", lambda _, places, modules: begun.append((places, modules)))
    sample = dict.fromkeys([*names_of(WorkerSettings), "revision", "prompts"]) | {
        "workers": 2,
        "model": "world",
    }
    run = tmp_path / "run"
    begin_sampling(run, sample, beside=1)
    for wrong in ({"model": "no/such"}, {"revision": "a"}, {"prompts": tmp_path / "none.jsonl"}):
        begin_sampling(run, sample | wrong)
    begin_scoring(run, sample)
    assert begun == [(3, ["pipeline.sampling.cogvideox"])]
    (run / "candidates").mkdir(parents=True)
    (run / "candidates" / "0.parquet").touch()
    begin_sampling(run, sample)
    begin_scoring(run, sample)
    assert begun[1:] == [(2, ["pipeline.scoring.stage"])]
    (run / "scores").mkdir()
    (run / "scores" / "0.parquet").touch()
    begin_scoring(run, sample)
    assert len(begun) == 2


@pytest.mark.slow
def test_what_an_error_ended_is_not_kept(tmp_path: Path) -> None:
    with kept_warm():
        with pytest.raises(ZeroDivisionError), warm_actors_for(WorkerSettings(workers=1), 1) as actors:
            _ = 1 / 0
        with warm_actors_for(WorkerSettings(workers=1), 1) as other:
            assert other is not actors
        with warm_actors_for(WorkerSettings(workers=1), 1) as again:
            assert again is other
        with warm_actors_for(WorkerSettings(workers=2), 2) as wider:
            assert wider is not other, "a local Ray has the places that it started with"


class FakeRay:
    """A Ray whose actors are names: what is killed, and what their release returns, can be seen."""

    exceptions = SimpleNamespace(RayError=TimeoutError)
    cloudpickle = SimpleNamespace(dumps=repr)

    def __init__(self) -> None:
        self.made = 0
        self.killed: list[str] = []
        self.clean: dict[str, bool] = {}

    def is_initialized(self) -> bool:
        return True

    def get(self, references: list[str], timeout: float) -> list[Any]:
        return [self.clean.get(references[0], True), "alive"]

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return [], references

    def kill(self, handle: SimpleNamespace) -> None:
        self.killed.append(handle.name)

    def actor(self) -> SimpleNamespace:
        self.made += 1
        name = f"actor-{self.made}"
        method = SimpleNamespace(remote=lambda *_: name)
        return SimpleNamespace(name=name, setup=method, release=method, last_heartbeat=method)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    options = SimpleNamespace(remote=fake.actor)
    monkeypatch.setattr(
        warm_actors, "worker_class", lambda ray: SimpleNamespace(options=lambda **values: options)
    )
    return fake


def stage(gpus: float) -> ToyStage:
    return ToyStage(folder=Path(), resources=Resources(gpus=gpus))


def test_an_actor_of_other_resources_makes_room(ray: FakeRay) -> None:
    actors = WarmActors(ray, WorkerSettings(workers=1, gpus_per_worker=1), 1)
    whole = actors.take_actor(stage(1.0), {})
    whole.rest()
    actors.return_actor(whole)
    assert actors.take_actor(stage(1.0), {}).handle.name == "actor-1"
    actors = WarmActors(ray, WorkerSettings(workers=1, gpus_per_worker=1), 1)
    whole = actors.take_actor(stage(1.0), {})
    whole.rest()
    actors.return_actor(whole)
    assert actors.take_actor(stage(0.5), {}).handle.name == "actor-3"
    assert ray.killed == ["actor-2"]


def test_an_actor_goes_when_another_waits_for_its_place(ray: FakeRay) -> None:
    actors = WarmActors(ray, WorkerSettings(workers=1, gpus_per_worker=1), 1)
    first = actors.take_actor(stage(1.0), {})
    first.rest()
    actors.take_actor(stage(0.5), {})
    actors.return_actor(first)
    assert (ray.killed, actors.idle) == (["actor-1"], 0)


def test_gpus_are_given_back_before_long_work_without_ray(ray: FakeRay) -> None:
    for settings, gpus, kept in (
        (WorkerSettings(workers=1), 0.0, 1),
        (WorkerSettings(workers=1, gpus_per_worker=1), 1.0, 0),
        (WorkerSettings(workers=1, ray_address="head:1"), 0.0, 0),
    ):
        actors = WarmActors(ray, settings, 1)
        actor = actors.take_actor(stage(gpus), {})
        actor.rest()
        actors.return_actor(actor)
        actors.release_idle()
        assert actors.idle == kept


def test_an_actor_that_is_not_as_new_is_replaced(ray: FakeRay) -> None:
    actors = WarmActors(ray, WorkerSettings(workers=1), 1)
    actor = actors.take_actor(stage(0.0), {})
    actor.rest()
    actors.return_actor(actor)
    ray.clean["actor-1"] = False
    again = actors.take_actor(stage(0.0), {})
    assert (again.handle.name, again.served, ray.killed) == ("actor-2", False, ["actor-1"])
