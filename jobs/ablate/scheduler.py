"""How an ablation is scheduled: what is done in which order, what no longer fits the budget, what failed.

Trainings go in rounds, every recipe with the first seed before any with the second, so that a budget that
ends early leaves a table in which recipes stand side by side. After each round everything trained is
evaluated; within a budget also after the first training, to learn what an evaluation takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.ablate.costs import (
    Begun,
    Cost,
    EvaluationCost,
    describe,
    evaluation_cost,
    evaluation_settings,
    minutes,
    scoring_seconds,
    slowed,
    training_seconds,
)
from jobs.ablate.selections import Selections
from jobs.ablate.trainings import (
    Outcome,
    Record,
    Selection,
    Settings,
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

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Scheduler:
    """One call of gpa ablate on an opened run that holds candidates."""

    run: Run
    settings: Settings
    say: Say
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._evaluated: list[str] = []
        # What an evaluation lacked when it was last counted, and how many trainings there were then.
        self._owed: tuple[EvaluationCost, int] | None = None
        # How much slower than foretold training and evaluating were.
        self._pace = (1.0, 1.0)
        self._selections = Selections(run=self.run, commands=self.settings.commands)
        self.outcome = Outcome()

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        budget = self.settings.budget
        return float("inf") if budget is None else budget - (self.clock() - self._started)

    def execute(self) -> Outcome:
        """Train what fits, evaluate after every round, and say what was left out or failed.

        Raises UserError when there is nothing to compare at the end.
        """
        for seed in sorted({one.seed for one in self.settings.trainings}):
            self._round([one for one in self.settings.trainings if one.seed == seed])
            self._catch_up()
        if self.outcome.evaluation is None:
            reasons = {**self.outcome.failed, **self.outcome.left_out}
            said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise UserError(f"nothing was trained: {said}")
        return self.outcome

    @property
    def evaluates_early(self) -> bool:
        """Whether what is trained is evaluated before the round ends.

        What an evaluation takes by the clock is then known before much is owed to it.
        """
        return self.settings.budget is not None and self.outcome.evaluation is None

    def _round(self, trainings: Sequence[Training]) -> None:
        """Train what fits of the trainings of one seed."""
        for training in trainings:
            self._attempt(training)
            if self.evaluates_early:
                self._catch_up()

    def _catch_up(self) -> None:
        """Evaluate what is trained, unless the last evaluation holds all of it."""
        records = self._records()
        names = [one.name for one in records]
        if not records or names == self._evaluated:
            return
        told, began = self.evaluation_cost().trained, self.clock()
        self._evaluate(records)
        self._evaluated, self._owed = names, None
        if told is not None:
            self._pace = (self._pace[0], slowed(told, self.clock() - began))

    def _attempt(self, training: Training) -> None:
        if is_trained(self.run, training.name):
            with self._failing_alone(training):
                self._known(training)
            return
        owed = self.evaluation_cost()
        with self._failing_alone(training):
            begun = self._admitted(training, owed)
            if begun is not None:
                self._begin(training, begun)

    @contextmanager
    def _failing_alone(self, training: Training) -> Iterator[None]:
        """What fails inside stops this training and no other; a signal stops all."""
        try:
            yield
        except (UserError, RewardError) as error:
            if getattr(error, "signal_name", None):
                raise
            self._fail(training.name, str(error))

    def _fail(self, name: str, reason: str) -> None:
        self.outcome.failed[name] = reason
        self.say(f"{name} failed: {reason}")

    def _admitted(self, training: Training, owed: EvaluationCost) -> Begun | None:
        """The beginning of a training; None when it would not fit."""
        cost = self.cost(training, owed).slower(*self._pace)
        needed = self.needed(cost)
        if needed > self.left:
            self.outcome.left_out[training.name] = (
                f"it would take about {minutes(needed)}, {minutes(max(0.0, self.left))} are left"
            )
            self.say(f"{training.name} left out: {self.outcome.left_out[training.name]}")
            return None
        self.say(f"{training.name}: {describe(cost, self.left)}")
        return Begun(cost=cost, at=self.clock(), pace=self._pace[0])

    def needed(self, cost: Cost) -> float:
        """Seconds from now until a training of this cost is evaluated with all that is owed."""
        return cost.seconds

    def _begin(self, training: Training, begun: Begun) -> None:
        self._train(training)
        self._learn(begun, self.clock())

    def _learn(self, begun: Begun, ended: float) -> None:
        """Believe the clock where it is slower than what was foretold."""
        if {"score", "train"} & set(begun.cost.unknown):
            return
        train, evaluate = self._pace
        # Counted from the pace that was foretold by: another training may have changed it meanwhile.
        self._pace = (max(train, begun.pace * slowed(begun.told, ended - begun.at)), evaluate)

    def cost(self, training: Training, owed: EvaluationCost) -> Cost:
        """What this training adds, with all that is trained and not evaluated yet."""
        commands = self.settings.commands
        _, score = scoring_seconds(self.run, commands, training)
        evaluate = None if owed.trained is None or owed.each is None else owed.trained + owed.each
        return Cost.of(score=score, train=training_seconds(self.run, commands, training), evaluate=evaluate)

    def evaluation_cost(self) -> EvaluationCost:
        """What an evaluation of all that is trained lacks, and what one more training adds.

        Between two evaluations the run is read once: a training adds what each adds.
        """
        records = self._records()
        if self._owed is None:
            cost = self._count_evaluation(records)
            if cost.trained is None:
                return cost
            self._owed = (cost, len(records))
        cost, counted = self._owed
        return cost.with_more(len(records) - counted)

    def _count_evaluation(self, records: Sequence[Record]) -> EvaluationCost:
        settings = self.settings
        return evaluation_cost(self.run, settings.commands, settings.evaluation, self._distinct(records))

    def _known(self, training: Training) -> None:
        """Check that a finished training is that of the recipe as it is now."""
        selection, pairs, limit = self._pairs(training)
        keep(self.run, record_of(self.settings.commands, training, selection, pairs, limit))

    def _train(self, training: Training) -> None:
        self.settings.commands.require("train-dpo", *self._prepared(training))

    def _prepared(self, training: Training) -> list[str]:
        """Score, choose pairs and write the record; returns the words of gpa train-dpo."""
        selection, pairs, limit = self._pairs(training)
        keep(self.run, record_of(self.settings.commands, training, selection, pairs, limit))
        return train_words(training, self.run.path / selection.directory, limit)

    def _pairs(self, training: Training) -> tuple[Selection, int, int | None]:
        """The pairs of a recipe, how many there are to take, and the bound that all recipes share."""
        selection, pairs = self._selections.of(training)
        if not self.settings.match_pairs:
            return selection, pairs, None
        first = {one.recipe.name: one for one in reversed(self.settings.trainings)}
        return selection, pairs, self._selections.fewest(list(first.values()))

    def _records(self) -> list[Record]:
        """The finished trainings that are compared."""
        found = kept(self.run, str(self.settings.commands.preset), self.settings.recipes)
        return [one for one in found if not self.settings.only or one.recipe in self.settings.recipes]

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
        from jobs.progress import ConsoleProgress
        from jobs.settings.options import recordable
        from pipeline.evaluation.evaluate import run_evaluate

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
