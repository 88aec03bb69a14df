"""The number of actors follows the work, within its bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import ray_pool
from pipeline.engine.ray_pool import Pool
from pipeline.engine.warm import warm_actors_for
from pipeline.engine.warm_actors import WarmActors
from pipeline.engine.worker_settings import WorkerSettings
from storage.errors import UserError
from tests.pipeline.toy import ToyStage, ToyTask, tries

pytestmark = pytest.mark.slow


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(ray_pool, "IDLE_SECONDS", 0.5)
    settings = WorkerSettings(workers=3, min_workers=2)
    # Room for two of the three: one has to wait, and the others go on without it.
    with warm_actors_for(settings, 2) as actors:
        pool = Pool(actors, ToyStage(folder=tmp_path), settings)
        yield pool
        pool.stop()


def work(pool: Pool, *keys: str) -> list[str]:
    pool.feed(ToyTask(key=key) for key in keys)
    done: list[str] = []
    deadline = time.monotonic() + 60
    while len(done) < len(keys) and time.monotonic() < deadline:
        done += [outcome.key for outcome in pool.poll(0.1)]
    return sorted(done)


def test_actors_come_with_the_work_and_go_without_it(pool: Pool, tmp_path: Path) -> None:
    assert pool.poll(0.01) == []
    assert pool.size == 0
    assert work(pool, "a") == ["a"]
    assert pool.size == 1
    keys = [f"sleeps-0.2-{number}" for number in range(6)]
    assert work(pool, *keys) == keys
    assert pool.size == 3
    deadline = time.monotonic() + 30
    while pool.size > 2 and time.monotonic() < deadline:
        pool.poll(0.1)
    time.sleep(0.6)
    pool.poll(0.1)
    assert (pool.size, pool.finished) == (2, False)
    assert work(pool, "b") == ["b"]
    pool.close()
    assert pool.finished
    assert all(tries(tmp_path, key) == 1 for key in ["a", "b", *keys])


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of the next actors Ray cancels: it takes them for forgotten."""
    left = [0]
    new = WarmActors._new

    def forgotten(self: WarmActors, *arguments: Any) -> Any:
        handle = new(self, *arguments)
        if left[0]:
            left[0] -= 1
            time.sleep(0.3)  # Ray knows of it, and its process is not there yet
            core_worker = self.ray._private.worker.global_worker.core_worker
            core_worker.remove_actor_handle_reference(handle._ray_actor_id)
        return handle

    monkeypatch.setattr(WarmActors, "_new", forgotten)
    return left


def test_workers_that_ray_cancels_by_mistake_are_asked_for_again(pool: Pool, cancelled: list[int]) -> None:
    cancelled[0] = 5
    assert work(pool, "a", "b") == ["a", "b"]
    assert cancelled == [0]


def test_a_ray_that_cancels_every_worker_is_given_up(
    pool: Pool, cancelled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "_MAX_CANCELLED_SECONDS", 0.0)
    cancelled[0] = 10**6
    with pytest.raises(UserError, match=r"Ray has cancelled every worker of toy"):
        work(pool, "a", "b")
