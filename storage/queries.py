"""The small questions that commands ask of a run's tables."""

from __future__ import annotations

import duckdb
import pyarrow.compute as pc

from storage.run import Run
from storage.schemas import KEYS
from storage.views import fetch, session

_VERSIONS = """
    SELECT reward_version, count(*) AS rows FROM scores WHERE reward = $reward
    GROUP BY reward_version ORDER BY rows DESC, reward_version
"""

_SCORED = "SELECT candidate_id FROM scores WHERE reward = $reward AND reward_version = $reward_version"


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
    with session(run, "scores") as connection:
        rows = fetch(connection, _SCORED, {"reward": reward, "reward_version": reward_version})
    return {str(row[0]) for row in rows}


def reward_versions(run: Run, reward: str) -> list[tuple[str, int]]:
    """The versions of a reward with their numbers of scores, the most used first.

    A version that is the only one is counted as it was written, repeated rows included.
    """
    # Counting every row once takes ten times longer, and matters only to whoever has to choose.
    with session(run, "scores", repeats=True) as connection:
        found = _versions(connection, reward)
    if len(found) > 1:
        with session(run, "scores") as connection:
            found = _versions(connection, reward)
    return found


def _versions(connection: duckdb.DuckDBPyConnection, reward: str) -> list[tuple[str, int]]:
    return [(str(row[0]), int(row[1])) for row in fetch(connection, _VERSIONS, {"reward": reward})]
