"""Pair mining: the candidates of every prompt ranked, paired and accounted for, out of core."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

import duckdb
import pyarrow as pa

from storage.errors import UserError
from storage.mining import statements as sql
from storage.mining.decisions import Decisions
from storage.mining.rules import (
    CANDIDATE_RULES,
    DROPPED,
    OF_CANDIDATES,
    OF_PAIRS,
    PAIR_RULES,
    FunnelStep,
    PairRules,
)
from storage.mining.statements import STEP
from storage.run import Run
from storage.sql.views import Limits, fetch, session
from storage.tables.schemas import TABLES, default_columns

_GIVEN = "CREATE TEMP TABLE given_decisions AS SELECT * FROM decisions"

# The first entry that names what the run does not hold.
_UNKNOWN = """
    WITH named AS (
        SELECT place, prompt_id, better_id AS id FROM given_decisions
        UNION ALL SELECT place, prompt_id, worse_id FROM given_decisions),
    judged AS (
        SELECT n.place, n.prompt_id, n.id, p.prompt_id IS NOT NULL AS has_prompt, c.prompt_id AS its_prompt
        FROM named n
        LEFT JOIN (SELECT prompt_id FROM prompts SEMI JOIN given_decisions USING (prompt_id)) p
            ON p.prompt_id = n.prompt_id
        LEFT JOIN (SELECT candidate_id, prompt_id FROM candidates SEMI JOIN named ON id = candidate_id) c
            ON c.candidate_id = n.id)
    SELECT place, prompt_id, id, has_prompt, its_prompt FROM judged
    WHERE NOT has_prompt OR its_prompt IS NULL OR its_prompt <> prompt_id
    ORDER BY place, id LIMIT 1
"""

# By the numbers of the candidates and for both orders in which a pair can have been mined.
_DECIDED = """
    CREATE TEMP TABLE decided AS
    WITH numbered_decisions AS (
        SELECT b.candidate AS better, w.candidate AS worse, dropped
        FROM given_decisions d
        JOIN ranked b ON b.candidate_id = d.better_id
        JOIN ranked w ON w.candidate_id = d.worse_id)
    SELECT better AS first, worse AS second, if(dropped, 'drop', 'keep') AS word FROM numbered_decisions
    UNION ALL
    SELECT worse, better, if(dropped, 'drop', 'swap') FROM numbered_decisions
"""

_APPLY = f"""
    UPDATE proposed SET human = d.word,
        step = CASE d.word WHEN 'drop' THEN {STEP[DROPPED]} END,
        winner = if(d.word = 'swap', loser, winner), loser = if(d.word = 'swap', winner, loser),
        winner_id = if(d.word = 'swap', loser_id, winner_id),
        loser_id = if(d.word = 'swap', winner_id, loser_id),
        winner_value = if(d.word = 'swap', loser_value, winner_value),
        loser_value = if(d.word = 'swap', winner_value, loser_value),
        gap = if(d.word = 'swap', -gap, gap),
        winner_motion = if(d.word = 'swap', loser_motion, winner_motion),
        loser_motion = if(d.word = 'swap', winner_motion, loser_motion)
    FROM decided d
    WHERE proposed.winner = d.first AND proposed.loser = d.second AND proposed.step IS NULL
"""

_APPLIED = "SELECT human::VARCHAR, count(*) FROM proposed WHERE human IS NOT NULL GROUP BY human"


class _Unknown(NamedTuple):
    """An entry of a file and the id in it that does not fit the run."""

    place: int
    prompt_id: str
    candidate_id: str
    has_prompt: bool
    its_prompt: str | None


@dataclass(frozen=True, kw_only=True)
class Applied:
    """How many pairs a person kept, dropped and swapped, and how many decisions are of no pair made here."""

    keep: int = 0
    drop: int = 0
    swap: int = 0
    without_pair: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def _apply_decisions(connection: duckdb.DuckDBPyConnection, decisions: Decisions) -> Applied:
    """Change the proposed pairs of a mining. Raises UserError for ids that the run does not hold."""
    connection.register("decisions", decisions.table)
    connection.execute(_GIVEN)
    connection.unregister("decisions")
    unknown = fetch(connection, _UNKNOWN)
    if unknown:
        raise UserError(_unknown(decisions, _Unknown(*unknown[0])))
    connection.execute(_DECIDED)
    connection.execute(_APPLY)
    counts = {str(word): int(count) for word, count in fetch(connection, _APPLIED)}
    return Applied(**counts, without_pair=decisions.table.num_rows - sum(counts.values()))


def _unknown(decisions: Decisions, found: _Unknown) -> str:
    where = f"{decisions.path} entry {found.place}:"
    remedy = "give the decisions that were made on a report of this run"
    if not found.has_prompt:
        return f"{where} the run holds no prompt {found.prompt_id}: {remedy}"
    if found.its_prompt is None:
        return f"{where} the run holds no candidate {found.candidate_id}: {remedy}"
    return (
        f"{where} candidate {found.candidate_id} is of prompt {found.its_prompt}, not of {found.prompt_id}: "
        f"{remedy}"
    )


_BATCH_ROWS = 2**17


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mining:
    """What was mined, its rows still in the database: they are read as often and as far as they are wanted.

    The funnel starts with ("sampled", 0, 0, candidates); the losses and what is left add up to that number.
    `largest_gap` is that of its pairs; None when there are none. `unmeasured` candidates were scored before
    footage was measured, and its rules pass over them. `idle` are the fields of rules that bound nothing: no
    score has what they bound. `adapters` made what is ranked, the base counted
    as one. `applied` counts what a person decided; None when nobody was asked.
    """

    connection: duckdb.DuckDBPyConnection
    funnel: list[FunnelStep]
    candidates: int
    prompts: int
    pairs: int
    paired_prompts: int
    largest_gap: float | None
    unmeasured: int
    idle: tuple[str, ...]
    adapters: int
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
    if rules.reward_version is None:
        raise ValueError("pairs are mined by one reward_version: settle it first")
    with session(run, "prompts", "candidates", "scores", limits=limits) as connection:
        connection.execute(sql.RULES, dataclasses.asdict(rules))
        connection.execute(sql.NUMBERED)
        connection.execute(sql.FORMATS)
        connection.execute(sql.FILLED)
        connection.execute(sql.JUDGED)
        _refuse_orphans(connection, run)
        connection.execute(sql.RANKED)
        connection.execute(sql.PROPOSED)
        if rules.min_difference > 0:
            connection.execute(sql.COPIED)
        applied = _apply_decisions(connection, decisions) if decisions else None
        connection.execute(sql.FATES)
        connection.execute(sql.LAST_STEPS)
        losses = {int(row[0]): (int(row[1]), int(row[2])) for row in fetch(connection, sql.LOSSES)}
        pairs, paired_prompts, largest_gap = fetch(connection, sql.KEPT)[0]
        unmeasured = fetch(connection, sql.UNMEASURED)[0][0]
        yield Mining(
            connection=connection,
            funnel=_funnel(losses),
            candidates=sum(candidates for candidates, _ in losses.values()),
            prompts=sum(prompts for _, prompts in losses.values()),
            pairs=pairs,
            paired_prompts=paired_prompts,
            largest_gap=largest_gap,
            unmeasured=unmeasured,
            idle=_idle(connection, rules),
            adapters=fetch(connection, sql.ADAPTERS)[0][0],
            applied=applied,
        )


def _idle(connection: duckdb.DuckDBPyConnection, rules: PairRules) -> tuple[str, ...]:
    """The fields that bound a measure of which no score of this reward and version has a value."""
    found = connection.sql("FROM filled")
    filled = dict(zip(found.columns, found.fetchall()[0], strict=True))
    asked = [(one.field, one.measure) for one in (*OF_CANDIDATES, *OF_PAIRS) if getattr(rules, one.field) > 0]
    if math.isfinite(rules.max_motion_ratio):
        asked.append(("max_motion_ratio", "motion"))
    return tuple(field for field, measure in asked if not filled[f"has_{measure}"])


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
