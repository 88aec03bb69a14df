"""Whose fault errors in a row are, and that every task has one outcome in the end."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import stage
from pipeline.engine.runners import InProcessRunner
from pipeline.engine.stage import ERROR, TaskOutcome, failed_outcome
from pipeline.engine.streaks import Streaks
from storage.errors import UserError
from tests.pipeline.test_runners import by_key, ray_runner, tasks
from tests.pipeline.toy import ToyStage, ToyTask, tries


def good(task: ToyTask) -> TaskOutcome:
    return TaskOutcome(key=task.key, done=task.ids)


def bad(task: ToyTask) -> TaskOutcome:
    return failed_outcome(task, ERROR, "it raised")


def test_a_worker_with_three_errors_in_a_row_is_given_up_and_its_tasks_are_tried_again() -> None:
    streaks = Streaks()
    well, first, second, third = tasks("well", "first", "second", "third")
    assert streaks.add("other", well, good(well)) == [good(well)]
    for task in (first, second):
        assert streaks.add("sick", task, bad(task)) == []
        assert streaks.sick("sick") == []
    assert streaks.add("sick", third, bad(third)) == []
    assert streaks.sick("sick") == [first, second, third]
    assert streaks.add("other", first, good(first)) == [good(first)]
    # What fails elsewhere too has failed.
    assert streaks.add("other", second, bad(second)) == [bad(second)]
    assert streaks.release_all() == []


def test_a_worker_that_succeeds_between_is_well() -> None:
    streaks = Streaks()
    first, second, third = tasks("first", "second", "third")
    assert streaks.add("one", first, good(first)) == [good(first)]
    assert streaks.add("one", second, bad(second)) == []
    assert streaks.add("one", third, good(third)) == [bad(second), good(third)]


def test_where_nothing_ever_succeeded_no_worker_is_given_up() -> None:
    streaks = Streaks()
    for task in tasks(*"abcdef"):
        assert streaks.add("one", task, bad(task)) == [bad(task)]
        assert streaks.sick("one") == []


def test_given_up_in_vain_it_is_the_tasks() -> None:
    streaks = Streaks()
    well, *others = tasks(*"abcdefg")
    streaks.add("one", well, good(well))
    for task in others[:3]:
        streaks.add("one", task, bad(task))
    again = streaks.sick("one")
    assert [streaks.add("two", task, bad(task)) for task in again] == [[bad(task)] for task in again]
    for task in others[3:]:
        assert streaks.add("two", task, bad(task)) == [bad(task)]
        assert streaks.sick("two") == []


@given(
    st.lists(st.booleans(), max_size=30),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.integers(1, 3),
)
def test_every_task_has_one_outcome(fails: list[bool], turns: list[int], sick_after: int) -> None:
    streaks, told = Streaks(), Counter[str]()
    queue = deque(tasks(*(str(number) for number in range(len(fails)))))
    done: Counter[int] = Counter()
    turn = 0
    while queue:
        worker = turns[turn % len(turns)]
        turn += 1
        task = queue.popleft()
        done[worker] += 1
        # The first worker is sick from some task on, and is well again when it is another one.
        raised = fails[int(task.key)] or (worker == 0 and done[worker] > sick_after)
        told.update(one.key for one in streaks.add(worker, task, bad(task) if raised else good(task)))
        again = streaks.sick(worker)
        if again:
            done[worker] = -1000
            queue.extendleft(reversed(again))
    told.update(one.key for one in streaks.release_all())
    assert told == Counter(str(number) for number in range(len(fails)))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["poisons", "spoils"])
def test_a_worker_that_can_no_longer_do_anything_costs_no_task(how: str, tmp_path: Path) -> None:
    keys = [f"t{number}" for number in range(40)]
    keys[6] = how
    outcomes = by_key(list(ray_runner(workers=2).run(ToyStage(folder=tmp_path), tasks(*keys))))
    assert {key for key, outcome in outcomes.items() if outcome.done != (key,)} == set()
    assert set(outcomes) == set(keys)
    assert tries(tmp_path, how) == 2


def test_in_process_a_gpu_that_no_longer_works_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "device_fault", lambda: "CUDA error: an illegal memory access")
    ran = InProcessRunner().run(ToyStage(folder=tmp_path), tasks("a", "raises", "b"))
    assert next(ran).done == ("a",)
    with pytest.raises(UserError, match=r"the GPU of this process no longer works \(CUDA error: an illegal"):
        next(ran)
