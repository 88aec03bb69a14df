"""Pair mining: the candidates of every prompt ranked, paired and accounted for, out of core."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from storage import mining_sql as sql
from storage.decisions import Decisions
from storage.errors import UserError
from storage.mining_decisions import Applied, apply_decisions
from storage.rules import CANDIDATE_RULES, PAIR_RULES, FunnelStep, MinedPairs, PairRules
from storage.run import Run
from storage.schemas import TABLES, default_columns
from storage.views import Limits, fetch, session

_BATCH_ROWS = 2**17


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mining:
    """What was mined, its rows still in the database: they are read as often and as far as they are wanted.

    The funnel starts with ("sampled", 0, 0, candidates); the losses and what is left add up to that number.
    `largest_gap` is that of its pairs; None when there are none. `applied` counts what a person decided; None
    when nobody was asked.
    """

    connection: duckdb.DuckDBPyConnection
    funnel: list[FunnelStep]
    candidates: int
    prompts: int
    pairs: int
    paired_prompts: int
    largest_gap: float | None
    applied: Applied | None

    def rows(self) -> pa.RecordBatchReader:
        """The pairs (index columns) in order of pair_id."""
        schema = pa.schema([TABLES["pairs"].field(name) for name in default_columns("pairs")])
        return _cast(self.connection.sql(sql.PAIRS), schema)

    def rejects(self) -> pa.RecordBatchReader:
        """The reject rows in order of id and rule."""
        names = [*CANDIDATE_RULES, *PAIR_RULES]
        return _cast(self.connection.sql(sql.REJECTS, params={"names": names}), TABLES["rejects"])


@contextmanager
def mining(
    run: Run, rules: PairRules, limits: Limits | None = None, decisions: Decisions | None = None
) -> Iterator[Mining]:
    """Rank the candidates of every prompt and find the pairs that satisfy `rules`, in SQL and out of core.

    Ties are ranked by candidate_id, so equal runs give equal pairs. No candidates or no pairs give no rows
    and a funnel that says where they went. `decisions` then drop and turn round some of the pairs. Raises
    UserError for a candidate without a prompt row, for decisions about ids that the run does not hold, and
    for shards that cannot be read.
    """
    with session(run, "prompts", "candidates", "scores", limits=limits) as connection:
        connection.execute(sql.RULES, dataclasses.asdict(rules))
        connection.execute(sql.NUMBERED)
        connection.execute(sql.JUDGED)
        _refuse_orphans(connection, run)
        connection.execute(sql.RANKED)
        connection.execute(sql.PROPOSED)
        applied = apply_decisions(connection, decisions) if decisions else None
        connection.execute(sql.FATES)
        connection.execute(sql.LAST_STEPS)
        losses = {int(row[0]): (int(row[1]), int(row[2])) for row in fetch(connection, sql.LOSSES)}
        pairs, paired_prompts, largest_gap = fetch(connection, sql.KEPT)[0]
        yield Mining(
            connection=connection,
            funnel=_funnel(losses),
            candidates=sum(candidates for candidates, _ in losses.values()),
            prompts=sum(prompts for _, prompts in losses.values()),
            pairs=pairs,
            paired_prompts=paired_prompts,
            largest_gap=largest_gap,
            applied=applied,
        )


def mine_pairs(run: Run, rules: PairRules, decisions: Decisions | None = None) -> MinedPairs:
    """All that `mining` finds, in memory. Raises what it raises."""
    with mining(run, rules, decisions=decisions) as found:
        return MinedPairs(
            rows=found.rows().read_all(),
            funnel=found.funnel,
            rejects_table=found.rejects().read_all(),
            candidates=found.candidates,
            prompts=found.prompts,
        )


def _cast(found: duckdb.DuckDBPyRelation, schema: pa.Schema) -> pa.RecordBatchReader:
    reader = found.to_arrow_reader(_BATCH_ROWS)
    batches = (
        pa.record_batch([batch[field.name].cast(field.type) for field in schema], schema=schema)
        for batch in reader
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _funnel(losses: dict[int, tuple[int, int]]) -> list[FunnelStep]:
    left = sum(candidates for candidates, _ in losses.values())
    funnel = [FunnelStep("sampled", 0, 0, left)]
    for step, rule in enumerate((*CANDIDATE_RULES, *PAIR_RULES), start=1):
        candidates, prompts = losses.get(step, (0, 0))
        left -= candidates
        funnel.append(FunnelStep(rule, candidates, prompts, left))
    return funnel


def _refuse_orphans(connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    count, first = fetch(connection, sql.ORPHANS)[0]
    if count:
        raise UserError(
            f"{count} candidates of {run.path} have no row in prompts/ (the first is {first}): "
            "run gpa sample with the same prompts again"
        )
