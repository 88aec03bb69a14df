"""Which trainings there are and what each would take; and the tables of an ablation on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.ablate.costs import Cost, describe, scoring_seconds, training_seconds
from jobs.ablate.files import notes
from jobs.ablate.scheduler import Scheduler
from jobs.ablate.tables import Figures, cell
from jobs.ablate.trainings import Outcome, Training, is_trained
from pipeline.evaluation.comparison import Row
from pipeline.evaluation.judges.judge import Measure


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


def forecast_trainings(scheduler: Scheduler) -> list[tuple[Training, Cost, bool]]:
    """What every training would take, and whether it would fit, if all went as measured."""
    left = scheduler.left
    ahead = _Ahead(slots=[0.0] * scheduler.settings.parallel)
    told = []
    scoring = {
        one.recipe.name: scoring_seconds(scheduler.run, scheduler.settings.commands, one)
        for one in scheduler.settings.trainings
        if one.seed == 0
    }
    evaluation = scheduler.evaluation_cost()
    first = evaluation.trained
    for training in scheduler.settings.trainings:
        if is_trained(scheduler.run, training.name):
            told.append((training, Cost(), True))
            continue
        ahead.enter(training.seed)
        version, score = scoring[training.recipe.name]
        owed = None if evaluation.each is None or first is None else evaluation.each + first
        cost = Cost.of(
            score=0.0 if version in ahead.scored else score,
            train=training_seconds(scheduler.run, scheduler.settings.commands, training),
            evaluate=owed,
        )
        fits = ahead.take(cost, left)
        if fits:
            first = 0.0 if first is not None else None
            ahead.scored.add(version)
        told.append((training, cost, fits))
    return told


_WIDTH = 150
# What a column has beside its words.
_GAP = 3
_ARROWS = {1: " (up)", -1: " (down)", 0: ""}


def show(outcome: Outcome, found: Figures, files: Sequence[Path]) -> None:
    """Print the recipes against the base, the first against the others, and what a reader must know."""
    console = Console(width=_WIDTH, highlight=False)
    rows = [row for by_measure in found.recipes.values() for row in by_measure.values()]
    trainings = max((row.spread.trainings for row in rows if row.spread), default=1)
    prompts = max((row.prompts for row in rows), default=0)
    assert outcome.evaluation is not None
    told = outcome.evaluation.header.prompts.words(prompts)
    console.print(f"recipes against the base: {told}, up to {trainings} trainings each")
    references = {
        who: {name: [_number(value)] for name, value in means.items()}
        for who, means in found.references.items()
    }
    against_base = {name: _cells(by_measure, cell) for name, by_measure in found.recipes.items()}
    _print(console, "", references | against_base, found.measures)
    if found.against:
        console.print(f"{found.first} against the others")
        judged = [one for one in found.measures if one.better]
        others = {
            name: _cells(by_measure, lambda row: cell(row)[1:]) for name, by_measure in found.against.items()
        }
        _print(console, found.first, others, judged)
    for one in found.measures:
        console.print(f"{one.name:17s} {one.about}", soft_wrap=True)
    for line in notes(outcome):
        console.print(line, soft_wrap=True)
    console.print(f"results: {', '.join(str(file) for file in files)}", soft_wrap=True)


def show_plan(scheduler: Scheduler, sampling: str) -> None:
    """Print what every training would take and what would be left out."""
    console = Console(width=_WIDTH, highlight=False)
    console.print(f"sample: {sampling}", soft_wrap=True)
    for training, cost, fits in forecast_trainings(scheduler):
        done = "" if cost.seconds or cost.unknown else "trained already"
        said = done or describe(cost, float("inf"))
        console.print(f"{training.name:26s} {said}{'' if fits else '; would be left out'}", soft_wrap=True)


def _cells(rows: Mapping[str, Row], words: Callable[[Row], list[str]]) -> dict[str, list[str]]:
    return {measure: words(row) for measure, row in rows.items()}


def _print(
    console: Console,
    corner: str,
    lines: Mapping[str, Mapping[str, list[str]]],
    measures: Sequence[Measure],
) -> None:
    """A table of as many measures as fit beside each other, and the rest in tables below."""
    names = max(len(name) for name in (corner, *lines))
    widths = {
        one.name: max(
            len(_head(one)), *(len(word) for cells in lines.values() for word in cells.get(one.name, [""]))
        )
        for one in measures
    }
    for block in _blocks(measures, widths, console.width - names - 2 * _GAP):
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(corner, no_wrap=True)
        for one in block:
            table.add_column(_head(one), justify="right", no_wrap=True)
        for name, cells in lines.items():
            table.add_row(name, *("\n".join(cells.get(one.name, [])) for one in block), end_section=True)
        console.print(table)


def _blocks(measures: Sequence[Measure], widths: Mapping[str, int], room: int) -> list[list[Measure]]:
    blocks: list[list[Measure]] = []
    left = 0
    for one in measures:
        needed = widths[one.name] + _GAP
        if not blocks or needed > left:
            blocks.append([])
            left = room
        blocks[-1].append(one)
        left -= needed
    return blocks


def _head(measure: Measure) -> str:
    return f"{measure.name}{_ARROWS[measure.better]}"


def _number(value: float) -> str:
    return f"{value:.4g}"
