"""Pair mining in SQL: candidates of a prompt are judged by the rules, ranked, and met with each other.

One statement after the other makes a temporary table; `step` is the rule at which a row left.
"""

from __future__ import annotations

import dataclasses

import duckdb
import pyarrow as pa

from storage.errors import UserError
from storage.queries import fetch, session
from storage.rules import CANDIDATE_RULES, PAIR_RULES, FunnelStep, MinedPairs, PairRules
from storage.run import Run
from storage.schemas import TABLES, default_columns

# Steps count from 1 in the order of the rules; NULL is still in, _KEPT is a member of a pair.
_STEP = {name: step for step, name in enumerate((*CANDIDATE_RULES, *PAIR_RULES), start=1)}
_KEPT = len(_STEP) + 1
_FIRST_OF_PROMPT, _FIRST_OF_PAIR = _STEP["fewer-than-two"], _STEP[PAIR_RULES[0]]
# What a candidate needs at least: the rule, the measure in scores, and the bound. Only a bound above 0 asks
# for the measure to be known.
_NEEDS = (
    ("static", "motion", "min_motion"),
    ("still", "image_motion", "min_image_motion"),
    ("soft", "sharpness", "min_sharpness"),
    ("uncovered", "coverage", "min_coverage"),
)
_RATIOS = (
    ("motion-ratio", "motion", "min_motion_ratio"),
    ("image-motion-ratio", "image_motion", "min_image_motion_ratio"),
    ("sharpness-ratio", "sharpness", "min_sharpness_ratio"),
)
_MEASURES = ", ".join(measure for _, measure, _ in _NEEDS)
_FINITE_MEASURES = ", ".join(
    f"CASE WHEN isfinite({measure}) THEN {measure} END AS {measure}" for _, measure, _ in _NEEDS
)
_TOO_LITTLE = "\n".join(
    f"WHEN r.{bound} > 0 AND NOT coalesce(s.{measure} >= r.{bound}, false) THEN {_STEP[rule]}"
    for rule, measure, bound in _NEEDS
)
_WINNER_HAS_LESS = "\n".join(
    f"WHEN r.{bound} > 0 AND NOT coalesce(w.{measure} >= r.{bound} * l.{measure}, false) THEN {_STEP[rule]}"
    for rule, measure, bound in _RATIOS
)
_DETAILS = "\n".join(
    f"WHEN {_STEP[rule]} THEN format('{measure} {{}}', coalesce({measure}::VARCHAR, 'unknown'))"
    for rule, measure, _ in _NEEDS
)

_RULES = """
    CREATE TEMP TABLE rules AS SELECT
        $reward::VARCHAR AS reward, $reward_version::VARCHAR AS reward_version,
        $min_gap::DOUBLE AS min_gap, $max_error::DOUBLE AS max_error,
        $min_motion::DOUBLE AS min_motion, $min_image_motion::DOUBLE AS min_image_motion,
        $min_sharpness::DOUBLE AS min_sharpness, $min_coverage::DOUBLE AS min_coverage,
        $max_motion_ratio::DOUBLE AS max_motion_ratio, $min_motion_ratio::DOUBLE AS min_motion_ratio,
        $min_image_motion_ratio::DOUBLE AS min_image_motion_ratio,
        $min_sharpness_ratio::DOUBLE AS min_sharpness_ratio,
        $strategy::VARCHAR AS strategy, $top_k::BIGINT AS top_k, $split::VARCHAR AS split
"""

_JUDGED = f"""
    CREATE TEMP TABLE judged AS
    WITH usable AS (
        SELECT * REPLACE ({_FINITE_MEASURES}) FROM scores)
    SELECT c.candidate_id, c.prompt_id, s.value, coalesce(c.reason, s.reason) AS reason, {_MEASURES},
        CASE
            WHEN c.status <> 'ok' THEN {_STEP["sampling-failed"]}
            WHEN s.candidate_id IS NULL THEN {_STEP["not-scored"]}
            WHEN s.value IS NULL OR NOT isfinite(s.value) THEN {_STEP["unscorable"]}
            {_TOO_LITTLE}
        END AS step
    FROM candidates c
    CROSS JOIN rules r
    JOIN prompts p ON p.prompt_id = c.prompt_id AND (r.split IS NULL OR p.split = r.split)
    LEFT JOIN usable s ON s.candidate_id = c.candidate_id
        AND s.reward = r.reward AND s.reward_version = r.reward_version
"""

_RANKED = f"""
    CREATE TEMP TABLE ranked AS
    SELECT candidate_id, prompt_id, value, {_MEASURES}, count(*) OVER (PARTITION BY prompt_id) AS n,
        row_number() OVER (PARTITION BY prompt_id ORDER BY value DESC, candidate_id) AS place
    FROM judged WHERE step IS NULL
"""

_PROPOSED = f"""
    CREATE TEMP TABLE proposed AS
    SELECT w.prompt_id, w.candidate_id AS winner_id, l.candidate_id AS loser_id,
        w.value AS winner_value, l.value AS loser_value, w.value - l.value AS gap,
        w.motion AS winner_motion, l.motion AS loser_motion,
        CASE
            WHEN -w.value > r.max_error THEN {_STEP["max-error"]}
            WHEN w.value - l.value <= 0 OR w.value - l.value < r.min_gap THEN {_STEP["min-gap"]}
            WHEN isfinite(r.max_motion_ratio) AND NOT coalesce(
                w.motion <= r.max_motion_ratio * l.motion AND l.motion <= r.max_motion_ratio * w.motion,
                false) THEN {_STEP["motion-ratio"]}
            {_WINNER_HAS_LESS}
        END AS step
    FROM ranked w
    JOIN ranked l ON l.prompt_id = w.prompt_id AND l.place > w.place
    CROSS JOIN rules r
    WHERE CASE r.strategy
        WHEN 'best-worst' THEN w.place = 1 AND l.place = l.n
        WHEN 'top-k' THEN w.place <= least(r.top_k, w.n // 2) AND l.place > l.n - least(r.top_k, l.n // 2)
        ELSE true END
"""

_FATES = f"""
    CREATE TEMP TABLE fates AS
    WITH members AS (
        SELECT winner_id AS candidate_id, step FROM proposed
        UNION ALL SELECT loser_id, step FROM proposed),
    reached AS (
        SELECT candidate_id, max(coalesce(step, {_KEPT})) AS step FROM members GROUP BY candidate_id)
    SELECT j.candidate_id, j.prompt_id, j.reason, j.value, {_MEASURES}, k.n,
        CASE
            WHEN j.step IS NOT NULL THEN j.step
            WHEN k.n < 2 THEN {_STEP["fewer-than-two"]}
            ELSE coalesce(m.step, {_STEP["not-chosen"]})
        END AS step
    FROM judged j
    LEFT JOIN (SELECT candidate_id, n FROM ranked) k USING (candidate_id)
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
        r.reward, r.reward_version, winner_motion, loser_motion, c.model, c.revision, c.num_frames
    FROM proposed q
    CROSS JOIN rules r
    JOIN prompts p ON p.prompt_id = q.prompt_id
    JOIN candidates c ON c.candidate_id = q.winner_id
    WHERE q.step IS NULL
    ORDER BY pair_id
"""

# A candidate that broke a rule of its own; a prompt that lost its last pair, with the pair that came closest.
_REJECTS = f"""
    WITH last_steps AS (SELECT prompt_id, max(step) AS step FROM fates GROUP BY prompt_id),
    figures AS (
        SELECT q.prompt_id, q.step, first(
            format('winner {{}} loser {{}}: winner error {{:.6g}}, gap {{:.6g}}, motions {{}} and {{}}',
                q.winner_id, q.loser_id, -q.winner_value, q.gap,
                coalesce(q.winner_motion::VARCHAR, 'unknown'), coalesce(q.loser_motion::VARCHAR, 'unknown'))
            ORDER BY q.gap DESC, q.winner_id, q.loser_id) AS detail
        FROM proposed q GROUP BY q.prompt_id, q.step),
    listed AS (
        SELECT candidate_id AS id, step, CASE step
            WHEN {_STEP["not-scored"]} THEN 'no score by this version of the reward'
            {_DETAILS}
            ELSE coalesce(reason, format('value {{}}', value), 'no value, no reason') END AS detail
        FROM fates WHERE step < {_FIRST_OF_PROMPT}
        UNION ALL
        SELECT prompt_id, step, 'one candidate left' FROM fates WHERE step = {_FIRST_OF_PROMPT}
        UNION ALL
        SELECT l.prompt_id, l.step, f.detail
        FROM last_steps l JOIN figures f ON f.prompt_id = l.prompt_id AND f.step = l.step
        WHERE l.step >= {_FIRST_OF_PAIR} AND l.step < {_KEPT})
    SELECT 'pair' AS stage, id, $names[step] AS rule, detail FROM listed ORDER BY step, id
"""

_ORPHANS = "SELECT count(*), min(candidate_id) FROM candidates ANTI JOIN prompts USING (prompt_id)"


def mine_pairs(run: Run, rules: PairRules) -> MinedPairs:
    """Rank the candidates of every prompt and keep the pairs that satisfy `rules`, in SQL and out of core.

    Ties are ranked by candidate_id, so equal runs give equal pairs. No candidates or no pairs give empty rows
    and a funnel that says where they went. Raises UserError for a candidate without a prompt row and for
    shards that cannot be read.
    """
    with session(run, "prompts", "candidates", "scores") as connection:
        _refuse_orphans(connection, run)
        connection.execute(_RULES, dataclasses.asdict(rules))
        for statement in (_JUDGED, _RANKED, _PROPOSED, _FATES):
            connection.execute(statement)
        losses = {int(row[0]): (int(row[1]), int(row[2])) for row in fetch(connection, _LOSSES)}
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
    count, first = fetch(connection, _ORPHANS)[0]
    if count:
        raise UserError(
            f"{count} candidates of {run.path} have no row in prompts/ (the first is {first}): "
            "run gpa sample with the same prompts again"
        )
