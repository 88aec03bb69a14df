"""How the clock compares with what was foretold."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.ablation.costs import Cost

# Seconds from which on a pace can be told from what starts and ends a command.
_TELLING = 20.0


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A training that began: what was foretold of it, when, and at which pace it was foretold."""

    cost: Cost
    at: float
    pace: float

    @property
    def told(self) -> float:
        """The seconds that were foretold until its adapter is there."""
        return self.cost.score + self.cost.train


def slowed(told: float, took: float) -> float:
    """How many times longer something took than was told, at least once; small things say nothing."""
    return max(1.0, took / told) if told >= _TELLING else 1.0
