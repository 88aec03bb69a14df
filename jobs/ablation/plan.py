"""Which trainings there are, in which order, and what each would take before any is begun."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.ablation.costs import Cost, scoring_seconds, training_seconds
from jobs.ablation.course import Course
from jobs.ablation.trainings import Training, is_trained


def rounds(trainings: Sequence[Training]) -> tuple[Training, ...]:
    """Trainings in the order of the rounds: by seed, then as the recipes were named."""
    return tuple(sorted(trainings, key=lambda one: one.seed))


def foretell(course: Course) -> list[tuple[Training, Cost, bool]]:
    """What every training would take, and whether it would fit, if all went as measured."""
    left = course.left
    scored: set[str] = set()
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
        version, score = scoring[training.recipe.name]
        owed = None if evaluation.each is None or first is None else evaluation.each + first
        cost = Cost.of(
            score=0.0 if version in scored else score,
            train=training_seconds(course.run, course.settings.commands, training),
            evaluate=owed,
        )
        fits = cost.seconds <= left
        if fits:
            left, first = left - cost.seconds, 0.0 if first is not None else None
            scored.add(version)
        told.append((training, cost, fits))
    return told
