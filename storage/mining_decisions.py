"""What a person decided, put into mined pairs: ids are checked first, then pairs go or turn round.

Only the pairs that the rules make can be decided; the rest of the mining does not know of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import duckdb

from storage.decisions import Decisions
from storage.errors import UserError
from storage.mining_sql import STEP
from storage.rules import DROPPED
from storage.views import fetch

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


class Unknown(NamedTuple):
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


def apply_decisions(connection: duckdb.DuckDBPyConnection, decisions: Decisions) -> Applied:
    """Change the proposed pairs of a mining. Raises UserError for ids that the run does not hold."""
    connection.register("decisions", decisions.table)
    connection.execute(_GIVEN)
    connection.unregister("decisions")
    unknown = fetch(connection, _UNKNOWN)
    if unknown:
        raise UserError(_unknown(decisions, Unknown(*unknown[0])))
    connection.execute(_DECIDED)
    connection.execute(_APPLY)
    counts = {str(word): int(count) for word, count in fetch(connection, _APPLIED)}
    return Applied(**counts, without_pair=decisions.table.num_rows - sum(counts.values()))


def _unknown(decisions: Decisions, found: Unknown) -> str:
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
