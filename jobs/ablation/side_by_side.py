"""The course of an ablation whose trainings run side by side, each a process with its share of the threads.

Scores and pairs are made here, one training after the other, before a training that needs them begins. A
training begins when a slot is free and when it, those that run, and the evaluation of all fit the budget.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jobs.ablation.children import Children, last_words
from jobs.ablation.costs import Cost, EvaluationCost
from jobs.ablation.course import Course
from jobs.ablation.pace import Begun
from jobs.ablation.trainings import FOLDER, Training

if TYPE_CHECKING:
    from jobs.ablation.settings import Settings
    from storage.run import Run


class SideBySide(Course):
    """A call of gpa ablate that runs up to `settings.parallel` trainings at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begun: dict[str, Begun] = {}
        self._children = Children(self.settings.parallel, self.clock, self.say)

    def evaluation_cost(self) -> EvaluationCost:
        """What an evaluation of all that is trained or running lacks, and what one more training adds."""
        return super().evaluation_cost().with_more(len(self._begun))

    def needed(self, cost: Cost) -> float:
        """Seconds until a training of this cost and those that run have ended and are evaluated."""
        now, pace = self.clock(), self._pace[0]
        left = [one.at + one.told * pace / one.pace - now for one in self._begun.values()]
        return max([cost.score + cost.train, *left]) + cost.evaluate

    def _round(self, trainings: Sequence[Training]) -> None:
        with self._children:
            for training in trainings:
                self._free_a_slot()
                self._attempt(training)
            self._end_all()

    def _free_a_slot(self) -> None:
        if len(self._begun) == self.settings.parallel:
            self._end_one()
            if self.evaluates_early:
                # Beside trainings, an evaluation would look slower than it is.
                self._end_all()
        if self.evaluates_early and not self._begun:
            self._catch_up()

    def _begin(self, training: Training, begun: Begun) -> None:
        own = self._prepared(training)
        commands = self.settings.commands
        log = self.run.path / FOLDER / "logs" / f"{training.name}.txt"
        self.say(f"$ {commands.line('train-dpo', *own)}\n  its output: {log}")
        self._children.start(training.name, ["train-dpo", *commands.words("train-dpo", *own)], log)
        self._begun[training.name] = begun

    def _end_all(self) -> None:
        while self._begun:
            self._end_one()

    def _end_one(self) -> None:
        ended = self._children.next()
        begun = self._begun.pop(ended.name)
        if ended.code:
            said = f"gpa train-dpo ended with {ended.code}: {last_words(ended.log)} (all of it: {ended.log})"
            self._fail(ended.name, said)
            return
        self.say(f"{ended.name} is trained")
        self._learn(begun, ended.at)


def course_of(run: Run, settings: Settings, say: Callable[[str], None]) -> Course:
    """The course that the settings ask for: in this process, or side by side."""
    kind = Course if settings.parallel == 1 else SideBySide
    return kind(run=run, settings=settings, say=say)


def share_of_threads(threads: int | None, parallel: int) -> int:
    """The CPU threads of one of so many trainings, of those that a preset gives one."""
    return max(1, (threads or os.cpu_count() or 1) // parallel)
