"""What judges measured of clips, kept so that none is measured twice, and the rows of an evaluation's table.

`judgements` are work: a row for a clip and a judge. `clips` are the result: a row for a clip and the name of
its model, rewritten as a whole whenever the table is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from storage.run import Run
from storage.tables.ids import canonical_json
from storage.tables.records import CLIP_MEASURES
from storage.tables.schemas import table_schema
from storage.tables.shards import keep_only, write_shard


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The values that one version of a judge gave to one candidate.

    `names` go with `values` one to one; a value is None where nothing could be measured.
    """

    candidate_id: str
    judge: str
    judge_version: str
    judge_license: str
    names: Sequence[str]
    values: Sequence[float | None]
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("candidate_id", "judge", "judge_version"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(
                    f"Judgement.{name} must be a non-empty string, got {getattr(self, name)!r}: "
                    "pass it when building the record"
                )
        if len(self.names) != len(self.values) or len(set(self.names)) != len(self.names):
            raise ValueError(
                f"Judgement.names must be different and one for each value, got {list(self.names)} for "
                f"{len(self.values)} values: name every value once"
            )
        bad = [value for value in self.values if value is not None and not math.isfinite(value)]
        if bad:
            raise ValueError(f"Judgement.values must be finite or None, got {bad[0]}: use None")


@dataclass(frozen=True, kw_only=True)
class EvaluatedClip:
    """A clip of an evaluation under its model's name, with every measure of it.

    The adapter and its weight are None for the base. `judges` are the versions by judge.
    """

    model_name: str
    candidate_id: str
    prompt_id: str
    seed: int
    adapter: str | None
    adapter_weight: float | None
    judges: Mapping[str, str]
    measures: Mapping[str, float | None]


def write_judgements(run: Run, rows: Sequence[Judgement]) -> Path:
    """Write rows as one durable shard and return it. Raises as `write_shard` does."""
    schema = table_schema("judgements")
    plain = [{name: getattr(row, name) for name in schema.names} for row in rows]
    return write_shard(run.shard_dir("judgements"), "judgements", pa.Table.from_pylist(plain, schema=schema))


def read_judgements(run: Run, versions: Mapping[str, str]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Values by candidate, judge and name, of these versions of these judges.

    A judge that measured nothing of a clip is there with no values: it looked.
    """
    wanted = set(versions.items())
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    columns = ["candidate_id", "judge", "judge_version", "names", "values"]
    for row in run.rows("judgements", columns).to_pylist():
        if (row["judge"], row["judge_version"]) in wanted:
            values = dict(zip(row["names"], row["values"], strict=True))
            found.setdefault(row["candidate_id"], {})[row["judge"]] = values
    return found


def judging_seconds(run: Run, versions: Mapping[str, str]) -> list[float]:
    """What a clip took that all of these judges have measured, over its judges."""
    wanted = set(versions.items())
    spent: dict[str, list[float]] = {}
    columns = ["candidate_id", "judge", "judge_version", "seconds"]
    for row in run.rows("judgements", columns).to_pylist():
        if (row["judge"], row["judge_version"]) in wanted and row["seconds"] is not None:
            spent.setdefault(row["candidate_id"], []).append(row["seconds"])
    return [sum(seconds) for seconds in spent.values() if len(seconds) == len(wanted)]


def write_clips(run: Run, clips: Sequence[EvaluatedClip]) -> Path:
    """Put these rows in the place of those of the last table, as one shard; return it.

    A measure without a column of its own goes to `more`, as JSON. The same rows give the same file.
    """
    rows = [
        {
            "model_name": one.model_name,
            "candidate_id": one.candidate_id,
            "prompt_id": one.prompt_id,
            "seed": one.seed,
            "adapter": one.adapter,
            "adapter_weight": one.adapter_weight,
            "judges": canonical_json(dict(one.judges)),
            "more": canonical_json({k: v for k, v in one.measures.items() if k not in CLIP_MEASURES}),
        }
        | {name: one.measures.get(name) for name in CLIP_MEASURES}
        for one in clips
    ]
    directory = run.shard_dir("clips")
    path = write_shard(directory, "clips", pa.Table.from_pylist(rows, schema=table_schema("clips")))
    keep_only(directory, [path])
    return path


def read_clips(run: Run) -> list[EvaluatedClip]:
    """The rows of the last table, by model name and candidate; none before the first evaluation."""
    rows = run.rows("clips").sort_by([("model_name", "ascending"), ("candidate_id", "ascending")])
    plain = ("model_name", "candidate_id", "prompt_id", "seed", "adapter", "adapter_weight")
    return [
        EvaluatedClip(
            **{name: row[name] for name in plain},
            judges=json.loads(row["judges"]),
            measures={name: row[name] for name in CLIP_MEASURES} | json.loads(row["more"]),
        )
        for row in rows.to_pylist()
    ]
