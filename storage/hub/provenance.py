"""Where the pairs of a directory come from: counts, gaps, the reward, and the geometry model behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from storage.run import Run
from storage.sql.views import fetch, session
from storage.tables.shards import read_rows

_GEOMETRY = """
    SELECT DISTINCT geometry_model, geometry_revision, geometry_license FROM scores
    WHERE reward = $reward AND reward_version = $reward_version AND geometry_model IS NOT NULL
    ORDER BY ALL
"""
_COLUMNS = ["pair_id", "prompt_id", "scene_id", "split", "gap", "reward", "reward_version", "human"]


@dataclass(frozen=True, kw_only=True)
class GeometrySource:
    """A geometry model by which candidates were scored; None for what its scores do not say."""

    model: str
    revision: str | None
    license: str | None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Counts of the pairs trained on, their gaps, their rewards (name, version) and geometry models.

    `human` counts those that a person kept or swapped. `splits` counts the pairs of every split that the
    directory holds, trained on or not. `scores_known` says whether the run holds scores of these rewards:
    without, `geometry` says nothing.
    """

    pairs: int
    prompts: int
    scenes: int
    splits: dict[str, int]
    gap_min: float
    gap_median: float
    gap_max: float
    rewards: tuple[tuple[str, str], ...]
    scores_known: bool
    geometry: tuple[GeometrySource, ...]
    human: int = 0


def pair_provenance(
    run: Run, directory: Path, split: str | None, limit: int | None = None
) -> Provenance | None:
    """What the pairs of `split` (None: all) in a directory say, and the run's scores of their rewards.

    `limit` takes the first pairs by id, as training does.

    None when there are none. Raises UserError for a shard that cannot be read.
    """
    rows = read_rows(directory, "pairs", _COLUMNS)
    splits = {str(row["values"]): int(row["counts"]) for row in pc.value_counts(rows["split"]).to_pylist()}
    if split is not None:
        rows = rows.filter(pc.equal(rows["split"], split))
    rows = rows.sort_by("pair_id").slice(0, limit)
    if not rows.num_rows:
        return None
    gap_P = rows["gap"].to_numpy()
    names = rows.select(["reward", "reward_version"]).group_by(["reward", "reward_version"]).aggregate([])
    rewards = tuple(sorted((row["reward"], row["reward_version"]) for row in names.to_pylist()))
    known, geometry = _geometry(run, rewards)
    return Provenance(
        pairs=rows.num_rows,
        prompts=pc.count_distinct(rows["prompt_id"]).as_py(),
        scenes=pc.count_distinct(rows["scene_id"]).as_py(),
        splits=dict(sorted(splits.items())),
        gap_min=float(gap_P.min()),
        gap_median=float(np.median(gap_P)),
        gap_max=float(gap_P.max()),
        rewards=rewards,
        scores_known=known,
        human=rows.num_rows - rows["human"].null_count,
        geometry=geometry,
    )


def _geometry(run: Run, rewards: tuple[tuple[str, str], ...]) -> tuple[bool, tuple[GeometrySource, ...]]:
    """Whether every reward has scores in the run, and the models that these name."""
    found: list[GeometrySource] = []
    with session(run, "scores") as connection:
        for reward, version in rewards:
            values = {"reward": reward, "reward_version": version}
            for model, revision, licence in fetch(connection, _GEOMETRY, values):
                found.append(GeometrySource(model=model, revision=revision, license=licence))
        held = set(fetch(connection, "SELECT DISTINCT reward, reward_version FROM scores"))
    return set(rewards) <= held, tuple(dict.fromkeys(found))
