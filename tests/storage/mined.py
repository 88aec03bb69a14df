"""All that a mining finds, in memory: for tests of a few rows."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from storage.mining.decisions import Decisions
from storage.mining.mining import mining
from storage.mining.rules import FunnelStep, PairRules
from storage.run import Run
from storage.tables.records import Reject


@dataclass(frozen=True, kw_only=True)
class MinedPairs:
    """The rows of `storage.mining.mining.Mining`, read."""

    rows: pa.Table
    funnel: list[FunnelStep]
    rejects_table: pa.Table
    candidates: int
    prompts: int
    idle: tuple[str, ...]

    @property
    def rejects(self) -> list[Reject]:
        """The reject rows as records; `rejects_table` is the same without a Python object for each."""
        return [Reject(**row) for row in self.rejects_table.to_pylist()]


def mine_pairs(run: Run, rules: PairRules, decisions: Decisions | None = None) -> MinedPairs:
    """All that `mining` finds, in memory. Raises what it raises."""
    with mining(run, rules, decisions=decisions) as found:
        return MinedPairs(
            rows=found.rows().read_all(),
            funnel=found.funnel,
            rejects_table=found.rejects().read_all(),
            candidates=found.candidates,
            prompts=found.prompts,
            idle=found.idle,
        )
