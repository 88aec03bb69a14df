"""The order of an ablation's trainings, what a budget leaves out, what a failure stops: by a toy clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.ablate import scheduler as module
from jobs.ablate import show as plan
from jobs.ablate.commands import Commands
from jobs.ablate.costs import Cost, EvaluationCost
from jobs.ablate.scheduler import Scheduler
from jobs.ablate.show import forecast_trainings, rounds
from jobs.ablate.trainings import Record, Selection, Settings, Training, keep, kept
from jobs.settings.presets import find_preset, load_recipe
from storage.errors import UserError
from storage.run import Run
from trainer.processes import Interrupted

SCORE, TRAIN, EACH = 10.0, 100.0, 20.0


def trainings(recipes: Sequence[str], seeds: int) -> tuple[Training, ...]:
    loaded = [load_recipe(name, "world") for name in recipes]
    return rounds(
        [Training(recipe=one, named=one.name, seed=seed) for one in loaded for seed in range(seeds)]
    )


class Toy(Scheduler):
    """Trains by the clock alone; `takes` are seconds by the name of a training, `raises` what it raises."""

    def __init__(
        self, run: Run, asked: Sequence[Training], budget: float | None = None, parallel: int = 1
    ) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.counted = 0
        self.evaluation_takes = EACH
        self.evaluated: list[list[str]] = []
        self.takes: dict[str, float] = {}
        self.raises: dict[str, Exception] = {}
        self.said: list[str] = []
        commands = Commands(run=run.path, preset=find_preset("world"))
        settings = Settings(
            commands=commands, trainings=tuple(asked), evaluation=(), budget=budget, parallel=parallel
        )
        super().__init__(run=run, settings=settings, say=self.said.append, clock=lambda: self.now)

    def _train(self, training: Training) -> None:
        self.now += self.takes.get(training.name, TRAIN)
        if training.name in self.raises:
            raise self.raises[training.name]
        self.done.append(training.name)

    def _known(self, training: Training) -> None:
        pass

    def _records(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.done]

    def _evaluate(self, records: Sequence[Any]) -> None:
        new = len(records) - len(self.evaluated[-1] if self.evaluated else [])
        self.now += self.evaluation_takes * new
        self.evaluated.append([one.name for one in records])
        self.outcome.evaluation = SimpleNamespace()  # type: ignore[assignment]

    def _count_evaluation(self, records: Sequence[Any]) -> EvaluationCost:
        self.counted += 1
        owed = len(records) - len(self.evaluated[-1] if self.evaluated else [])
        return EvaluationCost(trained=EACH * owed, each=EACH)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for place in (module, plan):
        monkeypatch.setattr(place, "scoring_seconds", lambda *_: ("v1", 0.0))
        monkeypatch.setattr(place, "training_seconds", lambda *_: TRAIN)
        monkeypatch.setattr(place, "is_trained", lambda _, name: False)
    return Run.create_or_open(tmp_path / "run")


def test_every_recipe_has_its_turn_before_the_next_seed(run: Run) -> None:
    toy = Toy(run, trainings(["best", "sft"], 2))
    toy.execute()
    assert toy.done == ["best-0", "sft-0", "best-1", "sft-1"]
    assert toy.evaluated == [["best-0", "sft-0"], ["best-0", "sft-0", "best-1", "sft-1"]]
    toy = Toy(run, trainings(["best", "sft"], 1), budget=1000.0)
    toy.execute()
    assert toy.evaluated == [["best-0"], ["best-0", "sft-0"]], (
        "within a budget the first is evaluated at once"
    )


def test_an_evaluation_slower_than_foretold_leaves_less_for_the_rest(run: Run) -> None:
    toy = Toy(run, trainings(["best", "sft"], 1), budget=300.0)
    toy.evaluation_takes = 4 * EACH
    # 100 + 80 s are gone; by the rates 120 more would fit, by the clock it is 180.
    assert toy.execute().left_out.keys() == {"sft-0"}


def test_what_an_evaluation_takes_is_counted_once_between_evaluations(run: Run) -> None:
    toy = Toy(run, trainings(["best", "sft", "top-2"], 2))
    toy.execute()
    assert toy.counted == 2
    toy = Toy(run, trainings(["best", "sft", "top-2"], 1))
    assert toy.evaluation_cost() == EvaluationCost(trained=0.0, each=EACH)
    toy.done += ["best-0", "sft-0"]
    assert toy.evaluation_cost() == EvaluationCost(trained=2 * EACH, each=EACH)


def test_what_no_longer_fits_is_left_out_and_named(run: Run) -> None:
    # A training with its evaluation is 120 s: two of them and half of a third.
    toy = Toy(run, trainings(["best", "sft"], 2), budget=300.0)
    outcome = toy.execute()
    assert toy.done == ["best-0", "sft-0"]
    assert sorted(outcome.left_out) == ["best-1", "sft-1"]
    assert "would take about 2 min, 60 s are left" in outcome.left_out["best-1"]
    assert toy.now <= 300.0


def test_the_evaluation_that_is_owed_is_part_of_the_budget(run: Run) -> None:
    # 250 s are enough for two trainings and the evaluation of one, not of both.
    assert Toy(run, trainings(["best", "sft"], 1), budget=250.0).execute().left_out.keys() == set()
    assert Toy(run, trainings(["best", "sft"], 1), budget=235.0).execute().left_out.keys() == {"sft-0"}


def test_a_smaller_training_may_still_fit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(_run: Run, _commands: Commands, training: Training) -> float:
        return 30.0 if training.recipe.name == "steps-half" else TRAIN

    monkeypatch.setattr(module, "training_seconds", seconds)
    toy = Toy(run, trainings(["best", "sft", "steps-half"], 1), budget=200.0)
    toy.takes["steps-half-0"] = 30.0
    assert toy.execute().left_out.keys() == {"sft-0"}
    assert toy.done == ["best-0", "steps-half-0"]


def test_a_clock_slower_than_the_logs_is_believed(run: Run) -> None:
    toy = Toy(run, trainings(["best", "sft", "beta-100"], 1), budget=460.0)
    toy.takes = dict.fromkeys(("best-0", "sft-0", "beta-100-0"), 2 * TRAIN)
    # By the logs 3 x 120 s fit; at the pace of the first one, two do.
    assert toy.execute().left_out.keys() == {"beta-100-0"}
    assert toy.now <= 460.0


def test_what_was_never_measured_is_begun(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "training_seconds", lambda *_: None)
    toy = Toy(run, trainings(["best"], 1), budget=30.0)
    toy.execute()
    assert toy.done == ["best-0"]
    assert "what is not measured yet (train)" in toy.said[0]


def test_a_failure_stops_its_own_training_alone(run: Run) -> None:
    toy = Toy(run, trainings(["best", "sft"], 2))
    toy.raises["best-0"] = UserError("no pair: lower the gap")
    outcome = toy.execute()
    assert toy.done == ["sft-0", "best-1", "sft-1"]
    assert outcome.failed == {"best-0": "no pair: lower the gap"}


def test_a_signal_stops_everything(run: Run) -> None:
    toy = Toy(run, trainings(["best", "sft"], 1))
    toy.raises["best-0"] = Interrupted("SIGTERM", 3, 6, Path("out"))
    with pytest.raises(Interrupted):
        toy.execute()
    assert toy.done == []


def test_nothing_trained_is_an_error_that_says_why(run: Run) -> None:
    toy = Toy(run, trainings(["best", "sft"], 1), budget=100.0)
    with pytest.raises(UserError, match=r"nothing was trained: best-0: it would take about 2 min, 2 min are"):
        toy.execute()


def test_foretelling_counts_the_scores_of_a_reward_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "scoring_seconds", lambda *_: ("v1", SCORE))
    told = forecast_trainings(Toy(run, trainings(["best", "sft"], 2), budget=3 * (TRAIN + EACH) + SCORE))
    assert [(training.name, cost.seconds, fits) for training, cost, fits in told] == [
        ("best-0", SCORE + TRAIN + EACH, True),
        ("sft-0", TRAIN + EACH, True),
        ("best-1", TRAIN + EACH, True),
        ("sft-1", TRAIN + EACH, False),
    ]


def test_a_cost_names_what_is_unknown() -> None:
    cost = Cost.of(score=1.0, train=None, evaluate=3.0)
    assert (cost.seconds, cost.unknown) == (4.0, ("train",))
    assert cost.slower(2.0, 3.0).seconds == 11.0
    assert (module.slowed(100.0, 250.0), module.slowed(100.0, 50.0), module.slowed(1.0, 9.0)) == (2.5, 1, 1)


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "recipe": "best",
        "named": "best",
        "about": "",
        "seed": 0,
        "preset": "world",
        "changes": {},
        "options": {"beta": 500.0, "max_error": float("inf"), "batch_size": 8, "grad_accum": 2},
        "selection": Selection(
            directory="ablate/pairs/x-1", reward="x", reward_version="1", rules={"min_gap": "0.03"}
        ),
        "pairs": 7,
        "commands": ("gpa score",),
    }
    return Record(**(values | changes))


def test_a_training_is_known_again_and_no_other_takes_its_name(run: Run) -> None:
    keep(run, record())
    keep(run, record())
    changed = record(options=record().options | {"beta": 300.0})
    with pytest.raises(
        UserError, match=r"best-0 was trained with beta 500\.0, .* has 300\.0 now: give it an"
    ):
        keep(run, changed)
    with pytest.raises(UserError, match=r"best-0 was trained on 7 pairs in ablate/pairs/x-1, .* 8 in"):
        keep(run, record(pairs=8))
    assert kept(run, "world", []) == [], "its adapter is not there yet"
    for name in ("sft-0", "best-1", "best-0", "ipo-0"):
        recipe, _, seed = name.rpartition("-")
        keep(run, record(recipe=recipe, seed=int(seed)))
        folder = run.path / "train" / name / "adapter"
        folder.mkdir(parents=True)
        (folder / "pytorch_lora_weights.safetensors").touch()
    found = kept(run, "world", ["sft", "best"])
    assert [one.name for one in found] == ["sft-0", "best-0", "best-1", "ipo-0"]
    assert found[1] == record()
    assert kept(run, "cogvideox-5b", []) == []
