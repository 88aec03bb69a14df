"""The course of an ablation: what is done in which order, what no longer fits the budget, what failed.

Trainings go in rounds, every recipe with the first seed before any with the second, so that a budget that
ends early leaves a table in which recipes stand side by side. After each round everything trained is
evaluated; within a budget also after the first training, to learn what an evaluation takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.ablation.commands import Commands
from jobs.ablation.costs import (
    Cost,
    EvaluationCost,
    describe,
    evaluation_cost,
    evaluation_settings,
    minutes,
    scoring_seconds,
    training_seconds,
)
from jobs.ablation.selections import Selections
from jobs.ablation.trainings import (
    Record,
    Selection,
    Training,
    adapter_of,
    is_trained,
    keep,
    kept,
    record_of,
    train_words,
)
from rewards.errors import RewardError
from storage.errors import UserError
from storage.run import Run

if TYPE_CHECKING:
    from pipeline.evaluation import Evaluation

Say = Callable[[str], None]
# Seconds from which on a pace can be told from what starts and ends a command.
_TELLING = 20.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `gpa ablate` is asked for: trainings in the order of the rounds, and how all are evaluated.

    `evaluation` are the words of gpa evaluate that are the ablation's own. `budget` is in seconds of this
    call; None has no end. `match_pairs` gives every recipe as many pairs as the one with fewest has.
    """

    commands: Commands
    trainings: tuple[Training, ...]
    evaluation: tuple[str, ...]
    budget: float | None = None
    match_pairs: bool = False

    @property
    def recipes(self) -> tuple[str, ...]:
        """The names of the recipes in order."""
        return tuple(dict.fromkeys(one.recipe.name for one in self.trainings))


@dataclass(kw_only=True)
class Outcome:
    """What came of it. `left_out` and `failed` say why by the name of the training."""

    records: list[Record] = field(default_factory=list)
    evaluation: Evaluation | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Course:
    """One call of gpa ablate on an opened run that holds candidates."""

    run: Run
    settings: Settings
    say: Say
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._evaluated: list[str] = []
        # How much slower than foretold training and evaluating were.
        self._pace = (1.0, 1.0)
        self._selections = Selections(run=self.run, commands=self.settings.commands)
        self.outcome = Outcome()

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        budget = self.settings.budget
        return float("inf") if budget is None else budget - (self.clock() - self._started)

    def follow(self) -> Outcome:
        """Train what fits, evaluate after every round, and say what was left out or failed.

        Raises UserError when there is nothing to compare at the end.
        """
        for seed in sorted({one.seed for one in self.settings.trainings}):
            for training in (one for one in self.settings.trainings if one.seed == seed):
                self._attempt(training)
                if self.settings.budget is not None and self.outcome.evaluation is None:
                    # What an evaluation takes by the clock is known before much is owed to it.
                    self._catch_up()
            self._catch_up()
        if self.outcome.evaluation is None:
            reasons = {**self.outcome.failed, **self.outcome.left_out}
            said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise UserError(f"nothing was trained: {said}")
        return self.outcome

    def _catch_up(self) -> None:
        """Evaluate what is trained, unless the last evaluation holds all of it."""
        records = self._records()
        names = [one.name for one in records]
        if not records or names == self._evaluated:
            return
        told, began = self.evaluation_cost().trained, self.clock()
        self._evaluate(records)
        self._evaluated = names
        if told is not None:
            self._pace = (self._pace[0], slowed(told, self.clock() - began))

    def _attempt(self, training: Training) -> None:
        evaluation = self.evaluation_cost()
        try:
            if is_trained(self.run, training.name):
                self._known(training)
                return
            cost = self.cost(training, evaluation).slower(*self._pace)
            if cost.seconds > self.left:
                self.outcome.left_out[training.name] = (
                    f"it would take about {minutes(cost.seconds)}, {minutes(max(0.0, self.left))} are left"
                )
                self.say(f"{training.name} left out: {self.outcome.left_out[training.name]}")
                return
            self.say(f"{training.name}: {describe(cost, self.left)}")
            began = self.clock()
            self._train(training)
            if not {"score", "train"} & set(cost.unknown):
                train, evaluate = self._pace
                self._pace = (train * slowed(cost.score + cost.train, self.clock() - began), evaluate)
        except (UserError, RewardError) as error:
            if getattr(error, "signal_name", None):
                raise
            self.outcome.failed[training.name] = str(error)
            self.say(f"{training.name} failed: {error}")

    def cost(self, training: Training, owed: EvaluationCost) -> Cost:
        """What this training adds, with all that is trained and not evaluated yet."""
        commands = self.settings.commands
        _, score = scoring_seconds(self.run, commands, training)
        evaluate = None if owed.trained is None or owed.each is None else owed.trained + owed.each
        return Cost.of(score=score, train=training_seconds(self.run, commands, training), evaluate=evaluate)

    def evaluation_cost(self) -> EvaluationCost:
        """What an evaluation of all that is trained lacks, and what one more training adds."""
        return evaluation_cost(
            self.run, self.settings.commands, self.settings.evaluation, self._distinct(self._records())
        )

    def _known(self, training: Training) -> None:
        """Check that a finished training is that of the recipe as it is now."""
        selection, pairs, limit = self._pairs(training)
        keep(self.run, record_of(self.settings.commands, training, selection, pairs, limit))

    def _train(self, training: Training) -> None:
        selection, pairs, limit = self._pairs(training)
        commands = self.settings.commands
        keep(self.run, record_of(commands, training, selection, pairs, limit))
        commands.require("train-dpo", *train_words(training, self.run.path / selection.directory, limit))

    def _pairs(self, training: Training) -> tuple[Selection, int, int | None]:
        """The pairs of a recipe, how many there are to take, and the bound that all recipes share."""
        selection, pairs = self._selections.of(training)
        if not self.settings.match_pairs:
            return selection, pairs, None
        first = {one.recipe.name: one for one in reversed(self.settings.trainings)}
        return selection, pairs, self._selections.fewest(list(first.values()))

    def _records(self) -> list[Record]:
        return kept(self.run, self.settings.commands.preset, self.settings.recipes)

    def _distinct(self, records: Sequence[Record]) -> list[Record]:
        """Without trainings that gave the very weights of one before: an evaluation names each once."""
        from pipeline.models import resolve_adapter, resolve_model

        found: dict[str, Record] = {}
        for record in records:
            model = resolve_model(record.options["model"], record.options["revision"])
            adapter = resolve_adapter(adapter_of(self.run.path, record), model)
            first = found.setdefault(adapter.id, record)
            note = f"{record.name} has the very weights of {first.name} and is not shown"
            if first is not record and note not in self.outcome.notes:
                self.outcome.notes.append(note)
        return list(found.values())

    def _evaluate(self, records: Sequence[Record]) -> None:
        from jobs.options import recordable
        from jobs.progress import ConsoleProgress
        from pipeline.evaluate import run_evaluate

        commands, own = self.settings.commands, self.settings.evaluation
        shown = self._distinct(records)
        adapters = tuple(f"{one.label}={adapter_of(self.run.path, one)}" for one in shown)
        named = [word for adapter in adapters for word in ("--adapter", adapter)]
        self.say(f"$ {commands.line('evaluate', *own, *named)}")
        settings = evaluation_settings(commands, own, shown)
        asked = commands.params("evaluate", *own) | {"adapters": list(adapters)}
        asked["judges"] = list(asked["judges"])
        self.run.record(f"evaluate {settings.name}", recordable(asked))
        result = run_evaluate(self.run, settings, progress=ConsoleProgress)
        self.outcome.evaluation, self.outcome.records = result, shown


def slowed(told: float, took: float) -> float:
    """How many times longer something took than was told, at least once; small things say nothing."""
    return max(1.0, took / told) if told >= _TELLING else 1.0
