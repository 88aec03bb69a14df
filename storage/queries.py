"""Every SQL statement: DuckDB over the Parquet shards of a run, nothing copied, values always bound."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import UserError
from storage.rules import CANDIDATE_RULES, PAIR_RULES, FunnelStep, MinedPairs, PairRules
from storage.run import Run
from storage.schemas import KEYS, TABLES, default_columns, open_shard
from storage.shards import read_rows, shard_files

# Of the rows that racing processes wrote under one key, the one a reader sees (as in shards.read_rows).
_ONE_PER_KEY = """
    CREATE VIEW {table} AS
    SELECT * EXCLUDE (filename, file_row_number) FROM raw_{table}
    QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {preference} filename, file_row_number) = 1
"""

_RULES = """
    CREATE TEMP TABLE rules AS SELECT
        $reward::VARCHAR AS reward, $reward_version::VARCHAR AS reward_version,
        $min_gap::DOUBLE AS min_gap, $max_error::DOUBLE AS max_error,
        $min_motion::DOUBLE AS min_motion, $max_motion_ratio::DOUBLE AS max_motion_ratio,
        $min_motion_ratio::DOUBLE AS min_motion_ratio,
        $strategy::VARCHAR AS strategy, $top_k::BIGINT AS top_k, $split::VARCHAR AS split
"""

# Steps count from 1 in the order of CANDIDATE_RULES + PAIR_RULES; NULL is still in.
_JUDGED = """
    CREATE TEMP TABLE judged AS
    SELECT c.candidate_id, c.prompt_id, s.value, coalesce(c.reason, s.reason) AS reason,
        CASE WHEN isfinite(s.motion) THEN s.motion END AS motion,
        CASE
            WHEN c.status <> 'ok' THEN 1
            WHEN s.candidate_id IS NULL THEN 2
            WHEN s.value IS NULL OR NOT isfinite(s.value) THEN 3
            WHEN r.min_motion > 0
                AND NOT coalesce(isfinite(s.motion) AND s.motion >= r.min_motion, false) THEN 4
        END AS step
    FROM candidates c
    CROSS JOIN rules r
    JOIN prompts p ON p.prompt_id = c.prompt_id AND (r.split IS NULL OR p.split = r.split)
    LEFT JOIN scores s ON s.candidate_id = c.candidate_id
        AND s.reward = r.reward AND s.reward_version = r.reward_version
"""

_RANKED = """
    CREATE TEMP TABLE ranked AS
    SELECT candidate_id, prompt_id, value, motion, count(*) OVER (PARTITION BY prompt_id) AS n,
        row_number() OVER (PARTITION BY prompt_id ORDER BY value DESC, candidate_id) AS place
    FROM judged WHERE step IS NULL
"""

_PROPOSED = """
    CREATE TEMP TABLE proposed AS
    SELECT w.prompt_id, w.candidate_id AS winner_id, l.candidate_id AS loser_id,
        w.value AS winner_value, l.value AS loser_value, w.value - l.value AS gap,
        w.motion AS winner_motion, l.motion AS loser_motion,
        CASE
            WHEN -w.value > r.max_error THEN 7
            WHEN w.value - l.value <= 0 OR w.value - l.value < r.min_gap THEN 8
            WHEN isfinite(r.max_motion_ratio) AND NOT coalesce(
                w.motion <= r.max_motion_ratio * l.motion AND l.motion <= r.max_motion_ratio * w.motion,
                false) THEN 9
            WHEN r.min_motion_ratio > 0
                AND NOT coalesce(w.motion >= r.min_motion_ratio * l.motion, false) THEN 9
        END AS step
    FROM ranked w
    JOIN ranked l ON l.prompt_id = w.prompt_id AND l.place > w.place
    CROSS JOIN rules r
    WHERE CASE r.strategy
        WHEN 'best-worst' THEN w.place = 1 AND l.place = l.n
        WHEN 'top-k' THEN w.place <= least(r.top_k, w.n // 2) AND l.place > l.n - least(r.top_k, l.n // 2)
        ELSE true END
"""

_FATES = """
    CREATE TEMP TABLE fates AS
    WITH members AS (
        SELECT winner_id AS candidate_id, step FROM proposed
        UNION ALL SELECT loser_id, step FROM proposed),
    reached AS (
        SELECT candidate_id, max(coalesce(step, 10)) AS step FROM members GROUP BY candidate_id)
    SELECT j.candidate_id, j.prompt_id, j.reason, j.value, j.motion, k.n,
        CASE
            WHEN j.step IS NOT NULL THEN j.step
            WHEN k.n < 2 THEN 5
            ELSE coalesce(m.step, 6)
        END AS step
    FROM judged j
    LEFT JOIN ranked k USING (candidate_id)
    LEFT JOIN reached m USING (candidate_id)
"""

_LOSSES = """
    WITH last_steps AS (SELECT prompt_id, max(step) AS step FROM fates GROUP BY prompt_id),
    lost_prompts AS (SELECT step, count(*) AS prompts FROM last_steps GROUP BY step),
    lost_candidates AS (SELECT step, count(*) AS candidates FROM fates GROUP BY step)
    SELECT step, coalesce(candidates, 0), coalesce(prompts, 0)
    FROM lost_candidates FULL JOIN lost_prompts USING (step)
"""

# Rows of the pairs table without its tensors. The id names the two candidates and what judged them.
_PAIRS = """
    SELECT substr(sha256(concat_ws('|', winner_id, loser_id, r.reward, r.reward_version)), 1, 32) AS pair_id,
        p.prompt_id, p.scene_id, p.split, p.text, winner_id, loser_id, winner_value, loser_value, gap,
        r.reward, r.reward_version, winner_motion, loser_motion, c.model, c.revision
    FROM proposed q
    CROSS JOIN rules r
    JOIN prompts p ON p.prompt_id = q.prompt_id
    JOIN candidates c ON c.candidate_id = q.winner_id
    WHERE q.step IS NULL
    ORDER BY pair_id
"""

# A candidate that broke a rule of its own; a prompt that lost its last pair, with the pair that came closest.
_REJECTS = """
    WITH last_steps AS (SELECT prompt_id, max(step) AS step FROM fates GROUP BY prompt_id),
    figures AS (
        SELECT q.prompt_id, q.step, first(
            format('winner {} loser {}: winner error {:.6g}, gap {:.6g}, motions {} and {}', q.winner_id,
                q.loser_id, -q.winner_value, q.gap, coalesce(q.winner_motion::VARCHAR, 'unknown'),
                coalesce(q.loser_motion::VARCHAR, 'unknown'))
            ORDER BY q.gap DESC, q.winner_id, q.loser_id) AS detail
        FROM proposed q GROUP BY q.prompt_id, q.step),
    listed AS (
        SELECT candidate_id AS id, step, CASE step
            WHEN 2 THEN 'no score by this version of the reward'
            WHEN 4 THEN format('motion {}', coalesce(motion::VARCHAR, 'unknown'))
            ELSE coalesce(reason, format('value {}', value), 'no value, no reason') END AS detail
        FROM fates WHERE step <= 4
        UNION ALL
        SELECT prompt_id, step, 'one candidate left' FROM fates WHERE step = 5
        UNION ALL
        SELECT l.prompt_id, l.step, f.detail
        FROM last_steps l JOIN figures f ON f.prompt_id = l.prompt_id AND f.step = l.step
        WHERE l.step BETWEEN 7 AND 9)
    SELECT 'pair' AS stage, id, $names[step] AS rule, detail FROM listed ORDER BY step, id
"""

_ORPHANS = "SELECT count(*), min(candidate_id) FROM candidates ANTI JOIN prompts USING (prompt_id)"

_VERSIONS = """
    SELECT reward_version, count(*) AS rows FROM scores WHERE reward = $reward
    GROUP BY reward_version ORDER BY rows DESC, reward_version
"""

_SCORED = "SELECT candidate_id FROM scores WHERE reward = $reward AND reward_version = $reward_version"


def connect(run: Run, tables: Sequence[str] = tuple(TABLES)) -> duckdb.DuckDBPyConnection:
    """A connection with a view per table, one row per key; it reaches no file outside of the run's tables.

    Raises UserError naming a shard that is truncated, foreign or of another schema version.
    """
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    connection.execute(
        "SET temp_directory = $folder", {"folder": str(Path(tempfile.gettempdir()) / "gpa-duckdb")}
    )
    for table in tables:
        _create_view(connection, run, table)
    folders = [f"{run.shard_dir(table).absolute()}/" for table in tables]
    connection.execute("SET allowed_directories = $folders", {"folders": folders})
    connection.execute("SET enable_external_access = false")
    return connection


def existing_ids(run: Run, table: str, *, status: str | None = None) -> set[str]:
    """The ids that a table already holds (its first key column), candidates optionally of one status only."""
    key = KEYS[table][0]
    columns = [key] if status is None else [key, "status"]
    rows = run.rows(table, columns)
    if status is not None:
        rows = rows.filter(pc.equal(rows["status"], status))
    return set(rows[key].to_pylist())


def scored_ids(run: Run, reward: str, reward_version: str) -> set[str]:
    """The candidates that this version of a reward has judged, unscorable ones included."""
    with _session(run, "scores") as connection:
        rows = _fetch(connection, _SCORED, {"reward": reward, "reward_version": reward_version})
    return {str(row[0]) for row in rows}


def reward_versions(run: Run, reward: str) -> list[tuple[str, int]]:
    """The versions of a reward with their numbers of scores, the most used first."""
    with _session(run, "scores") as connection:
        return [(str(row[0]), int(row[1])) for row in _fetch(connection, _VERSIONS, {"reward": reward})]


def mine_pairs(run: Run, rules: PairRules) -> MinedPairs:
    """Rank the candidates of every prompt and keep the pairs that satisfy `rules`, in SQL and out of core.

    Ties are ranked by candidate_id, so equal runs give equal pairs. No candidates or no pairs give empty rows
    and a funnel that says where they went. Raises UserError for a candidate without a prompt row and for
    shards that cannot be read.
    """
    with _session(run, "prompts", "candidates", "scores") as connection:
        _refuse_orphans(connection, run)
        connection.execute(_RULES, dataclasses.asdict(rules))
        for statement in (_JUDGED, _RANKED, _PROPOSED, _FATES):
            connection.execute(statement)
        losses = {int(row[0]): (int(row[1]), int(row[2])) for row in _fetch(connection, _LOSSES)}
        rows = connection.sql(_PAIRS).to_arrow_table()
        names = [*CANDIDATE_RULES, *PAIR_RULES]
        rejects = connection.sql(_REJECTS, params={"names": names}).to_arrow_table()
    index = pa.schema([TABLES["pairs"].field(name) for name in default_columns("pairs")])
    return MinedPairs(
        rows=rows.select(index.names).cast(index),
        funnel=_funnel(losses),
        rejects_table=rejects.cast(TABLES["rejects"]),
        candidates=sum(candidates for candidates, _ in losses.values()),
        prompts=sum(prompts for _, prompts in losses.values()),
    )


def _funnel(losses: dict[int, tuple[int, int]]) -> list[FunnelStep]:
    left = sum(candidates for candidates, _ in losses.values())
    funnel = [FunnelStep("sampled", 0, 0, left)]
    for step, rule in enumerate((*CANDIDATE_RULES, *PAIR_RULES), start=1):
        candidates, prompts = losses.get(step, (0, 0))
        left -= candidates
        funnel.append(FunnelStep(rule, candidates, prompts, left))
    return funnel


def _refuse_orphans(connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    count, first = _fetch(connection, _ORPHANS)[0]
    if count:
        raise UserError(
            f"{count} candidates of {run.path} have no row in prompts/ (the first is {first}): "
            "run gpa sample with the same prompts again"
        )


def _create_view(connection: duckdb.DuckDBPyConnection, run: Run, table: str) -> None:
    files = shard_files(run.shard_dir(table))
    for path in files:
        open_shard(path, table).close()
    if files:
        # An index of pairs lacks the tensor columns, every other table has one set of columns.
        connection.read_parquet(
            [str(path) for path in files], filename=True, file_row_number=True, union_by_name=table == "pairs"
        ).create_view(f"raw_{table}")
    else:
        connection.register("no_rows", TABLES[table].empty_table())
        connection.execute(
            f"CREATE TABLE raw_{table} AS SELECT *, '' AS filename, 0 AS file_row_number FROM no_rows"
        )
        connection.unregister("no_rows")
    # Only names from schemas.py are put into the text of a statement, never a value.
    preference = "status = 'ok' DESC," if table == "candidates" else ""
    connection.execute(_ONE_PER_KEY.format(table=table, keys=", ".join(KEYS[table]), preference=preference))


@contextmanager
def _session(run: Run, *tables: str) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = connect(run, tables)
    try:
        yield connection
    except duckdb.Error:
        # Footers were sound when the views were made, so a page may be damaged: reading all names the file.
        for table in tables:
            read_rows(run.shard_dir(table), table)
        raise
    finally:
        connection.close()


def _fetch(
    connection: duckdb.DuckDBPyConnection, statement: str, values: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    return list(connection.execute(statement, values or {}).fetchall())
