"""The figures of an ablation: recipes against the base and against the first, and every training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.ablate.trainings import Outcome, Record
from pipeline.evaluation.adapters import BASE
from pipeline.evaluation.comparison import Row, compare_group
from pipeline.evaluation.judges.judge import Measure
from pipeline.evaluation.tables import Evaluation, percent
from storage.judgements import read_clips
from storage.run import Run

_TRUE_CLIPS = "true clips"
# By prompt and seed.
_Values = dict[str, dict[int, float]]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the tables hold: rows by measure of recipes, of single trainings, and of the first recipe against
    each other one (there the other stands for the base).

    `moving` are the rows of recipes without clips that stand still, `truth` the means of the true clips.
    """

    measures: tuple[Measure, ...]
    recipes: dict[str, dict[str, Row]]
    trainings: dict[str, dict[str, Row]]
    moving: dict[str, dict[str, Row]]
    against: dict[str, dict[str, Row]]
    first: str
    truth: Mapping[str, float]

    @property
    def base(self) -> dict[str, float]:
        """The base model's means, by measure."""
        rows = next(iter(self.recipes.values()), {})
        return {name: row.base for name, row in rows.items()}

    @property
    def references(self) -> dict[str, Mapping[str, float]]:
        """The means that stand above the recipes: of the true clips, if there are any, and of the base."""
        return ({_TRUE_CLIPS: self.truth} if self.truth else {}) | {BASE: self.base}


def figures(outcome: Outcome, first: str) -> Figures:
    """The figures of an outcome that was evaluated; `first` is the recipe that the others stand against."""
    result = outcome.evaluation
    assert result is not None
    names = list(dict.fromkeys(record.recipe for record in outcome.records))
    first = first if first in names else names[0]
    return Figures(
        measures=tuple(result.shown()),
        recipes={name: _by_measure(result.tables[name]) for name in names},
        trainings={one.label: _by_measure(result.tables[one.label]) for one in outcome.records},
        moving={name: _by_measure(result.filtered.get(name, [])) for name in names},
        against=_against(result, outcome.records, first),
        first=first,
        truth=result.truth,
    )


def _by_measure(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.measure: row for row in rows}


def _against(result: Evaluation, records: Sequence[Record], first: str) -> dict[str, dict[str, Row]]:
    """The first recipe against every other one, training by training of the same seed."""
    values = _values(Run.open(result.directory))
    seeds: dict[str, dict[int, str]] = defaultdict(dict)
    for one in records:
        seeds[one.recipe][one.seed] = one.label
    found: dict[str, dict[str, Row]] = {}
    for recipe, labels in seeds.items():
        shared = sorted(labels.keys() & seeds[first].keys())
        if recipe == first or not shared:
            continue
        found[recipe] = {}
        for measure in result.shown():
            sides = [
                (values[labels[seed]][measure.name], values[seeds[first][seed]][measure.name])
                for seed in shared
            ]
            row = compare_group(measure.name, sides, measure.better, ratio=measure.ratio)
            if row is not None:
                found[recipe][measure.name] = row
    return found


def _values(inner: Run) -> Mapping[str, Mapping[str, _Values]]:
    """Values by model, measure, prompt and seed, of the clips of the last evaluation."""
    found: dict[str, dict[str, _Values]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for clip in read_clips(inner):
        for name, value in clip.measures.items():
            found[clip.model_name][name][clip.prompt_id][clip.seed] = math.nan if value is None else value
    return found


def points(found: Figures) -> dict[str, dict[str, dict[str, float]]]:
    """What a plot of measure against measure shows: means of true clips, base and recipes, by measure.

    Those of a recipe have an interval, that of its difference from the base, laid around its mean.
    """
    fixed = {
        who: {name: {"mean": mean} for name, mean in means.items()} for who, means in found.references.items()
    }
    return fixed | {
        recipe: {
            name: {
                "mean": row.adapter,
                "low": row.base + row.difference.low,
                "high": row.base + row.difference.high,
            }
            for name, row in rows.items()
        }
        for recipe, rows in found.recipes.items()
    }


def cell(row: Row | None) -> list[str]:
    """Mean, how it stands to the base's, and how often a prompt is better: a line each, with intervals.

    It stands by its share of the base's, or by the difference where a share means nothing.
    """
    if row is None:
        return [""]
    change = row.difference
    stands = percent(row.share) or f"{change.mean:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"
    wins = [] if row.win_rate is None else [percent(row.win_rate)]
    return [f"{row.adapter:.4g}", stands, *wins]


def budget_line(records: Sequence[Record]) -> str:
    """Steps and pairs a step: one sentence when all have the same, else who differs from most."""
    budgets = [(int(one.options["steps"]), one.pairs_per_step) for one in records]
    usual = max(sorted(set(budgets)), key=budgets.count)
    line = f"budget: {usual[0]} steps of {usual[1]} pairs for every training"
    others = {one.recipe: budget for one, budget in zip(records, budgets, strict=True) if budget != usual}
    told = ", ".join(f"{name} {steps} steps of {pairs}" for name, (steps, pairs) in others.items())
    return f"{line} but {told}: not the same budget" if others else line
