"""Where the pairs of a directory come from: counts, gaps, the reward, and the geometry model behind it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.hub.origins import IMPORTED, SAMPLED, origins, public_model
from storage.pairs.index import pair_folder
from storage.run import Run
from storage.tables.records import NO_MODEL
from storage.tables.shards import read_rows, shard_files

_COLUMNS = [
    *("pair_id", "prompt_id", "scene_id", "split", "winner_id", "loser_id"),
    *("gap", "reward", "reward_version", "human", "model"),
]
_OF_SCORES = ["reward", "reward_version", "geometry_model", "geometry_revision", "geometry_license"]
# Neither the run nor the shards say it.
_UNKNOWN = "unknown"
# Of the shards of an export, by the column of the candidate's id.
_KIND_COLUMNS = {"winner_id": "winner_origin", "loser_id": "loser_origin"}


@dataclass(frozen=True, kw_only=True)
class GeometrySource:
    """A geometry model by which candidates were scored; None for what its scores do not say."""

    model: str
    revision: str | None
    license: str | None


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Whose the videos of pairs are.

    `pairs` counts pairs by the kinds of their two videos, in the order of the names: sampled, imported,
    unknown. `models` sampled the sampled ones, `encoders` made the latents of imported ones, `captions`
    counts imported ones by what says their prompt.
    """

    pairs: dict[tuple[str, str], int]
    models: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    captions: dict[str, int] = field(default_factory=dict)

    def told(self) -> str:
        """What two videos make a pair, for the card of a data set or an adapter."""
        ways = {
            SAMPLED: f"sampled by {_listed(self.models)}",
            IMPORTED: "imported from elsewhere",
            _UNKNOWN: "of an origin that was not at hand when this was written",
        }
        told = {
            (a, b): f"both {ways[a]}" if a == b else f"one {ways[a]} and one {ways[b]}" for a, b in self.pairs
        }
        if len(told) == 1:
            return f"two videos of one prompt, {told.popitem()[1]}"
        counted = "; ".join(f"{text}, in {self.pairs[both]:,}" for both, text in told.items())
        return f"two videos of one prompt ({counted})"

    def terms(self) -> str:
        """Under which terms the videos, and the latents made of them, stand."""
        said = []
        if self.some(IMPORTED):
            said.append(
                "The imported videos are the user's: their terms are not known here, nor what made them."
            )
        if self.encoders:
            said.append(f"Their latents were made by {_listed(self.encoders)}.")
        if self.some(SAMPLED):
            said.append(
                f"Sampled videos and their latents are works of {_listed(self.models)}: read its terms too "
                "before use."
            )
        return " ".join(said)

    def some(self, kind: str) -> bool:
        """Whether any video is of this kind."""
        return any(kind in both for both in self.pairs)


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in names)


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
    videos: Videos

    def judged(self) -> str:
        """What ranked the pairs, and who looked over them."""
        rewards = ", ".join(f"`{name}` version `{version}`" for name, version in self.rewards)
        means = ""
        if self.geometry:
            means = f", by the geometry of {_listed(tuple(public_model(one.model) for one in self.geometry))}"
        elif self.scores_known:
            means = ", without a geometry model"
        people = "No human labelled anything."
        if self.human:
            people = f"A person looked at {self.human:,} pairs and left or swapped winner and loser."
        return f"Reward: {rewards}{means}. {people}"


def pair_provenance(
    run: Run, directory: Path, split: str | None, limit: int | None = None, *, videos: bool = True
) -> Provenance | None:
    """What the pairs of `split` (None: all) in a directory say, and the run's scores of their rewards.

    `limit` takes the first pairs by id, as training does. Without `videos` nothing is told of these.

    None when there are none. Raises UserError for a shard that cannot be read.
    """
    directory = pair_folder(directory)
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
        videos=_videos(run, directory, rows) if videos else Videos(pairs={}),
    )


def _videos(run: Run, directory: Path, rows: pa.Table) -> Videos:
    """By the candidates of the run; of those that it does not hold an export says what they are."""
    winners, losers, models = (rows[name].to_pylist() for name in ("winner_id", "loser_id", "model"))
    known = origins(run, {*winners, *losers})
    kinds = _exported_kinds(directory) | {name: one.kind for name, one in known.items()}
    pairs: Counter[tuple[str, str]] = Counter()
    makers: defaultdict[str, set[str]] = defaultdict(set)
    for winner, loser, model in zip(winners, losers, models, strict=True):
        of_both = [kinds.get(one, _UNKNOWN) for one in (winner, loser)]
        pairs[min(of_both), max(of_both)] += 1
        for one, kind in zip((winner, loser), of_both, strict=True):
            maker = known[one].model if one in known else model
            if maker not in (None, NO_MODEL):
                makers[kind].add(public_model(maker))
    return Videos(
        pairs=dict(sorted(pairs.items())),
        models=tuple(sorted(makers[SAMPLED])),
        encoders=tuple(sorted(makers[IMPORTED])),
        captions=dict(Counter(sorted(one.caption for one in known.values() if one.caption is not None))),
    )


def _exported_kinds(directory: Path) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for path in shard_files(directory):
        if set(_KIND_COLUMNS.values()) <= set(pq.read_schema(path).names):
            rows = pq.read_table(path, columns=[*_KIND_COLUMNS, *_KIND_COLUMNS.values()])
            for name, kind in _KIND_COLUMNS.items():
                both = zip(rows[name].to_pylist(), rows[kind].to_pylist(), strict=True)
                kinds |= {one: told for one, told in both if told is not None}
    return kinds


def _geometry(run: Run, rewards: tuple[tuple[str, str], ...]) -> tuple[bool, tuple[GeometrySource, ...]]:
    """Whether every reward has scores in the run, and the models that these name."""
    rows = run.rows("scores", _OF_SCORES).group_by(_OF_SCORES).aggregate([]).to_pylist()
    mine = [row for row in rows if (row["reward"], row["reward_version"]) in rewards]
    models = {
        tuple(row[name] for name in _OF_SCORES[2:]) for row in mine if row["geometry_model"] is not None
    }
    known = set(rewards) <= {(row["reward"], row["reward_version"]) for row in mine}
    return known, tuple(
        GeometrySource(model=model, revision=revision, license=licence)
        for model, revision, licence in sorted(models, key=str)
    )
