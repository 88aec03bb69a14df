"""Trainings of an ablation side by side, by a toy clock: order, budget, pace, failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.ablate.processes import Ended, SideBySide
from jobs.ablate.show import forecast_trainings
from storage.run import Run
from tests.jobs.test_ablate_scheduler import EACH, TRAIN, Toy, run, trainings

__all__ = ["run"]


class ToyChildren:
    """Children that end when the toy's clock says so."""

    def __init__(self, toy: ToyPair) -> None:
        self.toy = toy
        self.ends: dict[str, float] = {}

    def __enter__(self) -> ToyChildren:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, name: str, _words: Sequence[str], _log: Path) -> None:
        self.ends[name] = self.toy.now + self.toy.takes.get(name, TRAIN)
        self.toy.most = max(self.toy.most, len(self.ends))

    def next(self) -> Ended:
        name = min(self.ends, key=lambda one: self.ends[one])
        at = self.ends.pop(name)
        self.toy.now = max(self.toy.now, at)
        log = self.toy.run.path / "log.txt"
        log.write_text("begins\nerror: no memory\n")
        if name not in self.toy.fails:
            self.toy.done.append(name)
        return Ended(name=name, code=int(name in self.toy.fails), at=at, log=log)


class ToyPair(SideBySide, Toy):
    """Two trainings at a time by the clock alone; those in `fails` end with 1."""

    def __init__(self, run: Run, recipes: Sequence[str], seeds: int, budget: float | None = None) -> None:
        Toy.__init__(self, run, trainings(recipes, seeds), budget, parallel=2)
        self.fails: set[str] = set()
        self.most = 0
        self._children = ToyChildren(self)  # type: ignore[assignment]

    def _prepared(self, _training: object) -> list[str]:
        return []


def test_two_run_at_once_and_a_round_ends_before_the_next(run: Run) -> None:
    toy = ToyPair(run, ["best", "sft", "beta-100"], 2)
    toy.takes = {"best-0": 3 * TRAIN}
    toy.execute()
    assert toy.done == ["sft-0", "beta-100-0", "best-0", "best-1", "sft-1", "beta-100-1"]
    assert [len(names) for names in toy.evaluated] == [3, 6]
    assert toy.most == 2
    assert toy.now == 5 * TRAIN + 6 * EACH


def test_the_evaluation_of_what_runs_is_part_of_the_budget(run: Run) -> None:
    # Two trainings at once and the evaluation of both are 140 s.
    assert ToyPair(run, ["best", "sft"], 1, budget=140.0).execute().left_out.keys() == set()
    assert ToyPair(run, ["best", "sft"], 1, budget=139.0).execute().left_out.keys() == {"sft-0"}


def test_a_short_training_waits_for_the_evaluation_behind_a_long_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "jobs.ablate.scheduler.training_seconds", lambda *asked: 30.0 if asked[2].seed == 0 else TRAIN
    )
    toy = ToyPair(run, ["best", "sft"], 1)
    cost = toy.cost(toy.settings.trainings[0], toy.evaluation_cost())
    assert toy.needed(cost) == 30.0 + EACH
    monkeypatch.setattr("jobs.ablate.scheduler.training_seconds", lambda *_: TRAIN)
    toy._attempt(toy.settings.trainings[1])
    toy.now += 40.0
    assert toy.needed(cost) == 60.0 + EACH


def test_both_of_a_pair_that_were_slow_count_once(run: Run) -> None:
    # Twice as slow: 200 s for two, 40 for their evaluation, and 220 for a third.
    for budget, left_out in ((460.0, set()), (459.0, {"beta-100-0"})):
        toy = ToyPair(run, ["best", "sft", "beta-100"], 1, budget=budget)
        toy.takes = dict.fromkeys(("best-0", "sft-0", "beta-100-0"), 2 * TRAIN)
        assert toy.execute().left_out.keys() == left_out


def test_within_a_budget_the_first_that_end_are_evaluated_with_nothing_beside(run: Run) -> None:
    toy = ToyPair(run, ["best", "sft", "beta-100"], 1, budget=1000.0)
    toy.execute()
    assert toy.evaluated == [["best-0", "sft-0"], ["best-0", "sft-0", "beta-100-0"]]


def test_a_child_that_fails_says_its_last_lines_and_the_others_go_on(run: Run) -> None:
    toy = ToyPair(run, ["best", "sft"], 2)
    toy.fails.add("best-0")
    failed = toy.execute().failed
    assert toy.done == ["sft-0", "best-1", "sft-1"]
    assert failed.keys() == {"best-0"}
    said = f"gpa train-dpo ended with 1: begins; error: no memory (all of it: {run.path / 'log.txt'})"
    assert failed["best-0"] == said


def test_foretelling_fills_the_slots_round_by_round(run: Run) -> None:
    def fitting(budget: float) -> list[str]:
        told = forecast_trainings(ToyPair(run, ["best", "sft"], 2, budget=budget))
        return [training.name for training, _, fits in told if fits]

    two = TRAIN + 2 * EACH
    assert fitting(2 * two) == ["best-0", "sft-0", "best-1", "sft-1"]
    assert fitting(2 * two - 1) == ["best-0", "sft-0", "best-1"]
    assert fitting(two) == ["best-0", "sft-0"]
