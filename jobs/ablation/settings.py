"""What `gpa ablate` is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.ablation.commands import Commands
from jobs.ablation.trainings import Record, Training

if TYPE_CHECKING:
    from pipeline.evaluation.tables import Evaluation


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `gpa ablate` is asked for: trainings in the order of the rounds, and how all are evaluated.

    `evaluation` are the words of gpa evaluate that are the ablation's own. `budget` is in seconds of this
    call; None has no end. `match_pairs` gives every recipe as many pairs as the one with fewest has.
    `parallel` trainings at most run side by side. `only` keeps recipes of earlier calls out of the tables.
    """

    commands: Commands
    trainings: tuple[Training, ...]
    evaluation: tuple[str, ...]
    budget: float | None = None
    match_pairs: bool = False
    parallel: int = 1
    only: bool = False

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
