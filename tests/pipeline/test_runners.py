from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.progress import Silent
from pipeline.ray_runner import MAX_DEATHS, RayRunner
from pipeline.runners import InProcessRunner, execute, make_runner
from pipeline.stages.base import ERROR, WORKER_LOST, TaskOutcome
from storage.errors import UserError
from storage.run import Run
from tests.pipeline.toy import ToyStage, ToyTask, tries


def tasks(*keys: str) -> list[ToyTask]:
    return [ToyTask(key=key) for key in keys]


def by_key(outcomes: list[TaskOutcome]) -> dict[str, TaskOutcome]:
    assert len({outcome.key for outcome in outcomes}) == len(outcomes)
    return {outcome.key: outcome for outcome in outcomes}


def test_in_process_an_error_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    runner = InProcessRunner()
    outcomes = by_key(list(runner.run(ToyStage(folder=tmp_path), tasks("a", "raises", "b"))))
    assert outcomes["a"].done == ("a",)
    assert outcomes["b"].done == ("b",)
    (failure,) = outcomes["raises"].failed
    assert (failure.id, failure.rule, failure.reason) == ("raises", ERROR, "ValueError: raises is bad")
    assert tries(tmp_path, "raises") == 1


@pytest.mark.slow
def test_ray_redoes_what_dead_workers_had_and_gives_up_a_task_that_kills_them(tmp_path: Path) -> None:
    runner = RayRunner(workers=2)
    keys = ("a", "kills", "b", "once", "raises", "c")
    outcomes = by_key(list(runner.run(ToyStage(folder=tmp_path), tasks(*keys))))
    assert set(outcomes) == set(keys)
    assert all(outcomes[key].done == (key,) for key in ("a", "b", "c", "once"))
    assert tries(tmp_path, "once") == 2
    (lost,) = outcomes["kills"].failed
    assert (lost.rule, lost.reason) == (WORKER_LOST, f"killed its worker {MAX_DEATHS} times")
    assert tries(tmp_path, "kills") == MAX_DEATHS
    assert outcomes["raises"].failed[0].reason == "ValueError: raises is bad"
    assert tries(tmp_path, "raises") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("no weights", "toy has no weights: make some"),
        ("setup kills", "workers of toy died 3 times while loading their weights .*fewer --workers"),
    ],
)
def test_a_worker_that_cannot_be_set_up_ends_the_command(tmp_path: Path, trouble: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(RayRunner(workers=1).run(ToyStage(folder=tmp_path, trouble=trouble), tasks("a")))


def test_when_nothing_but_errors_comes_back_the_command_stops(tmp_path: Path) -> None:
    hopeless = tasks(*(f"raises{n}" for n in range(9)))
    message = r"the first 5 tasks all failed, the last with: ValueError: raises4 is bad"
    run = Run.create_or_open(tmp_path / "run")
    (tmp_path / "tries").mkdir()
    stage = ToyStage(folder=tmp_path / "tries")
    with pytest.raises(UserError, match=message):
        execute(run, stage, hopeless, runner=InProcessRunner(), progress=Silent(), wanted=9)
    assert len(list(stage.folder.iterdir())) == run.rows("rejects").num_rows == 5
    mixed = tasks(*(f"raises{n}" for n in range(4)), "a", *(f"raises{n}" for n in range(4, 9)))
    summary = execute(run, stage, mixed, runner=InProcessRunner(), progress=Silent(), wanted=12)
    assert (summary.wanted, summary.present, summary.done, summary.failed) == (12, 2, 1, 9)


def test_the_number_of_workers_chooses_the_runner() -> None:
    assert isinstance(make_runner(0), InProcessRunner)
    assert make_runner(3) == RayRunner(workers=3)
    with pytest.raises(UserError, match=r"--workers must be 0 .no Ray. or more, got -1"):
        make_runner(-1)
