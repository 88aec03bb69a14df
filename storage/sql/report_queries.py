"""What a report asks of a run: counts, distributions, a sample to draw, and the pairs to show."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import duckdb

from storage.run import Run
from storage.sql.views import Limits, session
from storage.tables.schemas import default_columns

Choice: TypeAlias = Literal["spread", "widest", "narrowest", "random"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Row: TypeAlias = dict[str, Any]
BINS = 48
# The outermost half percent goes to the outermost bins: a single outlier would leave one bar for the rest.
_TAIL = 0.005
MEASURES = (
    "value",
    "mse",
    "lpips",
    "coverage",
    "motion",
    "image_motion",
    "sharpness",
    "psnr",
    "ssim",
    "mvcs",
    "sampson",
    "cut",
    "fade",
    "bars",
    "overlay",
    "split_screen",
    "detail",
)

_COUNTS = {
    "prompts": "SELECT split AS name, count(*) AS rows FROM prompts GROUP BY split ORDER BY split",
    "candidates": "SELECT status AS name, count(*) AS rows FROM candidates GROUP BY ALL ORDER BY ALL",
    "models": """
        SELECT model, revision, adapter, count(*) AS rows
        FROM candidates GROUP BY model, revision, adapter ORDER BY rows DESC, model, adapter LIMIT 20
    """,
    # What failed has no video: its size is what was asked for.
    "videos": """
        SELECT count(*) AS rows, count(*) FILTER (contains(sampler, '"imported":{')) AS imported,
            count(DISTINCT (width, height)) AS sizes,
            arg_min([width, height], width * height) AS smallest,
            arg_max([width, height], width * height) AS largest,
            min(num_frames) AS fewest, max(num_frames) AS most, min(fps) AS slowest, max(fps) AS fastest
        FROM candidates WHERE status = 'ok' HAVING count(*) > 0
    """,
    "pairs": """
        SELECT split AS name, count(*) AS rows, count(DISTINCT prompt_id) AS prompts, count(human) AS human
        FROM pairs GROUP BY split ORDER BY split
    """,
    "rejects": "SELECT stage, rule, count(*) AS rows FROM rejects GROUP BY stage, rule ORDER BY ALL",
    "rewards": """
        SELECT reward, reward_version, count(*) AS rows, count(value) AS scored,
            any_value(geometry_model) AS geometry, any_value(geometry_license) AS license
        FROM scores GROUP BY reward, reward_version ORDER BY rows DESC, reward, reward_version LIMIT 8
    """,
    "paired_by": """
        SELECT reward, reward_version, count(*) AS rows FROM pairs
        GROUP BY reward, reward_version ORDER BY rows DESC, reward, reward_version
    """,
}

_ROLES = """
    CREATE TEMP TABLE roles AS
    SELECT s.candidate_id, s.value, s.motion, s.image_motion, s.sharpness,
        s.candidate_id IN (SELECT winner_id FROM pairs) AS wins,
        s.candidate_id IN (SELECT loser_id FROM pairs) AS loses
    FROM scores s
    WHERE s.reward = $reward AND s.reward_version = $version AND isfinite(s.value)
"""
_HISTOGRAM = f"""
    WITH ends AS (
        SELECT quantile_cont(value, {_TAIL}) AS low, quantile_cont(value, {1 - _TAIL}) AS high FROM roles)
    SELECT greatest(0, least({BINS - 1},
            floor(coalesce((value - low) / nullif(high - low, 0), 0) * {BINS})))::INT AS bin,
        count(*) AS everyone, count(*) FILTER (wins) AS winners, count(*) FILTER (loses) AS losers,
        any_value(low) AS low, any_value(high) AS high
    FROM roles CROSS JOIN ends GROUP BY bin ORDER BY bin
"""
# Ids are hashes: the first by id are a fair sample, and the same one every time.
_SAMPLE = "SELECT * FROM roles ORDER BY candidate_id LIMIT $most"

_CHOSEN = """
    CREATE TEMP TABLE chosen AS
    WITH placed AS (
        SELECT pair_id, gap, count(*) OVER () AS total,
            row_number() OVER (ORDER BY gap, pair_id) - 1 AS place FROM pairs)
    SELECT pair_id, place, total FROM placed
    WHERE CASE $choice WHEN 'narrowest' THEN place < $most WHEN 'widest' THEN place >= total - $most
        WHEN 'spread' THEN total <= $most OR place = 0
            OR (place * $most) // total > ((place - 1) * $most) // total
        ELSE pair_id IN (SELECT pair_id FROM pairs ORDER BY pair_id LIMIT $most) END
"""
# The tensors of pairs stay where they are.
_PAIRS = f"""
    SELECT {", ".join(f"p.{name}" for name in default_columns("pairs"))}, q.camera_motion
    FROM pairs p SEMI JOIN chosen USING (pair_id) LEFT JOIN prompts q USING (prompt_id)
    ORDER BY gap DESC, pair_id
"""
_CANDIDATES = """
    WITH members AS (
        SELECT winner_id AS candidate_id, reward, reward_version FROM pairs SEMI JOIN chosen USING (pair_id)
        UNION SELECT loser_id, reward, reward_version FROM pairs SEMI JOIN chosen USING (pair_id))
    SELECT c.*, s.* EXCLUDE (candidate_id, reason, seconds, thumbnail)
    FROM candidates c JOIN members m USING (candidate_id)
    LEFT JOIN scores s ON s.candidate_id = m.candidate_id AND s.reward = m.reward
        AND s.reward_version = m.reward_version
    ORDER BY c.candidate_id
"""


def overview(run: Run, limits: Limits | None = None) -> dict[str, list[Row]]:
    """Counts of every table by what tells its rows apart."""
    with session(run, "prompts", "candidates", "scores", "pairs", "rejects", limits=limits) as connection:
        return {name: _rows(connection, statement) for name, statement in _COUNTS.items()}


def distribution(
    run: Run, reward: str, version: str, most: int, limits: Limits | None = None
) -> tuple[list[Row], list[Row]]:
    """The histogram of a reward's values (all, winners, losers), and a fair sample of its scores."""
    with session(run, "scores", "pairs", limits=limits) as connection:
        connection.execute(_ROLES, {"reward": reward, "version": version})
        return _rows(connection, _HISTOGRAM), _rows(connection, _SAMPLE, {"most": most})


def shown_pairs(
    run: Run, most: int, choice: Choice, limits: Limits | None = None
) -> tuple[list[Row], list[Row]]:
    """At most `most` pairs, widest gap first, and their candidates with the scores that paired them.

    spread takes ranks of the gap at equal distances, the narrowest one included; widest and narrowest take
    one end; random goes by id.
    """
    with session(run, "prompts", "candidates", "scores", "pairs", limits=limits) as connection:
        connection.execute(_CHOSEN, {"choice": choice, "most": most})
        return _rows(connection, _PAIRS), _rows(connection, _CANDIDATES)


def _rows(
    connection: duckdb.DuckDBPyConnection, statement: str, values: dict[str, Any] | None = None
) -> list[Row]:
    found = connection.execute(statement, values or {})
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
