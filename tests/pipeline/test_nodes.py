"""A cluster of simulated nodes, one of which is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.bench.faults.scaling import Nodes, simulated_nodes
from pipeline.engine import ray_pool
from pipeline.engine.ray_runner import RayRunner
from pipeline.engine.stage import Resources
from pipeline.engine.worker_settings import WorkerSettings
from storage.errors import UserError
from tests.pipeline.toy import ToyStage, ToyTask, tries

pytestmark = pytest.mark.slow


def test_the_work_of_a_killed_node_is_done_by_the_others(tmp_path: Path) -> None:
    keys = [f"sleeps-0.4-{number}" for number in range(18)]
    # Two workers share the one (pretended) GPU of a node.
    stage = ToyStage(folder=tmp_path, resources=Resources(cpus=1, gpus=0.5))
    with simulated_nodes(2, cpus=4, gpus=1) as nodes:
        runner = runner_on(nodes, workers=4, gpus_per_worker=0.5)
        outcomes = runner.run(stage, [ToyTask(key=key) for key in keys])
        done = [next(outcomes).key for _ in range(4)]
        nodes.kill(1)
        # Its place is taken by a new node, on which the lost workers begin again.
        nodes.add()
        done += [outcome.key for outcome in outcomes if outcome.done]
        assert sorted(done) == sorted(keys)
        assert all(tries(tmp_path, key) == 1 for key in done[:4])
        assert sum(tries(tmp_path, key) for key in keys) <= len(keys) + 4


def test_a_cluster_without_tokens_is_joined_after_a_local_ray_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray turns its tokens on in the whole process, and would then cancel every actor of the cluster."""
    stage = ToyStage(folder=tmp_path, resources=Resources(cpus=1))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    local = RayRunner(settings=WorkerSettings(workers=1))
    assert [one.key for one in local.run(stage, [ToyTask(key="a")]) if one.done] == ["a"]
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(ray_pool, "_MAX_CANCELLED_SECONDS", 5.0)
    with simulated_nodes(1, cpus=1) as nodes:
        joined = RayRunner(settings=WorkerSettings(workers=1, ray_address=nodes.address))
        assert [one.key for one in joined.run(stage, [ToyTask(key="b")]) if one.done] == ["b"]


def runner_on(nodes: Nodes, *, workers: int, gpus_per_worker: float) -> RayRunner:
    return RayRunner(
        settings=WorkerSettings(workers=workers, gpus_per_worker=gpus_per_worker, ray_address=nodes.address)
    )


def test_gpus_that_this_machine_lacks_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runner = RayRunner(settings=WorkerSettings(workers=1, gpus_per_worker=1))
    with pytest.raises(UserError, match=r"--gpus-per-worker is 1 and Ray finds 0 GPUs on this machine"):
        list(runner.run(ToyStage(folder=tmp_path), [ToyTask(key="a")]))
