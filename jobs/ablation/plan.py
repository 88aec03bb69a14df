"""Which trainings there are, in which order, and what each would take before any is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.ablation.costs import Cost, scoring_seconds, training_seconds
from jobs.ablation.course import Course
from jobs.ablation.trainings import Training, is_trained


def rounds(trainings: Sequence[Training]) -> tuple[Training, ...]:
    """Trainings in the order of the rounds: by seed, then as the recipes were named."""
    return tuple(sorted(trainings, key=lambda one: one.seed))


@dataclass(kw_only=True)
class _Ahead:
    """The time ahead: when each slot is free, and what the evaluation after this round takes so far."""

    slots: list[float]
    evaluation: float = 0.0
    seed: int = 0
    scored: set[str] = field(default_factory=set)

    def enter(self, seed: int) -> None:
        """Begin the round of a seed, behind the evaluation of the one before."""
        if seed != self.seed:
            self.slots = [max(self.slots) + self.evaluation] * len(self.slots)
            self.evaluation, self.seed = 0.0, seed

    def take(self, cost: Cost, left: float) -> bool:
        """Give a training the first free slot, if all of it would end within what is left."""
        slot = self.slots.index(min(self.slots))
        end = self.slots[slot] + cost.score + cost.train
        evaluation = self.evaluation + cost.evaluate
        if max(end, *self.slots) + evaluation > left:
            return False
        self.slots[slot], self.evaluation = end, evaluation
        return True


def foretell(course: Course) -> list[tuple[Training, Cost, bool]]:
    """What every training would take, and whether it would fit, if all went as measured."""
    left = course.left
    ahead = _Ahead(slots=[0.0] * course.settings.parallel)
    told = []
    scoring = {
        one.recipe.name: scoring_seconds(course.run, course.settings.commands, one)
        for one in course.settings.trainings
        if one.seed == 0
    }
    evaluation = course.evaluation_cost()
    first = evaluation.trained
    for training in course.settings.trainings:
        if is_trained(course.run, training.name):
            told.append((training, Cost(), True))
            continue
        ahead.enter(training.seed)
        version, score = scoring[training.recipe.name]
        owed = None if evaluation.each is None or first is None else evaluation.each + first
        cost = Cost.of(
            score=0.0 if version in ahead.scored else score,
            train=training_seconds(course.run, course.settings.commands, training),
            evaluate=owed,
        )
        fits = ahead.take(cost, left)
        if fits:
            first = 0.0 if first is not None else None
            ahead.scored.add(version)
        told.append((training, cost, fits))
    return told
