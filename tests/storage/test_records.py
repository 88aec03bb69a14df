"""A record that breaks a rule is refused with field, rule and value."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from storage.tables.records import Pair, Prompt, Reject, TensorBlob
from storage.tables.schemas import ADDED, KEYS, RECORDS, TABLES
from tests.storage.builders import candidate, prompt, score


def pair(**changes: Any) -> Pair:
    given: dict[str, Any] = {
        "pair_id": "x", "prompt_id": "p", "scene_id": "s", "split": "train", "text": "t",
        "winner_id": "a", "loser_id": "b", "winner_value": -0.1, "loser_value": -0.2, "gap": 0.1,
        "reward": "r", "reward_version": "v", "winner_motion": 1.0, "loser_motion": None,
        "model": "m", "revision": "1",
    }  # fmt: skip
    return Pair(**(given | changes))


BLOB = TensorBlob(data=bytes(8), shape=(2,), dtype="float32")

BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: prompt(split="dev"), "Prompt.split must be one of train, val, test, got 'dev'"),
    (lambda: prompt(text=""), "Prompt.text must be a non-empty string, got ''"),
    (
        lambda: prompt(camera_motion="tilt upward"),
        "Prompt.camera_motion must be a list of strings, got 'tilt",
    ),
    (lambda: prompt(metadata="[1]"), "Prompt.metadata must be a JSON object as text, got '\\[1\\]'"),
    (lambda: prompt(metadata="{"), "Prompt.metadata must be a JSON object as text"),
    (lambda: candidate(seed=-1), r"Candidate.seed must be in \[0, 2\*\*63\), got -1"),
    (lambda: candidate(fps=0.0), "Candidate.fps must be a positive number, got 0.0"),
    (lambda: candidate(fps=float("nan")), "Candidate.fps must be a positive number, got nan"),
    (lambda: candidate(height=0), "Candidate.height must be a positive number, got 0"),
    (lambda: candidate(status="lost"), "Candidate.status must be ok or failed, got 'lost'"),
    (
        lambda: candidate(status="failed", reason=None),
        "Candidate.reason must be given exactly when status is failed",
    ),
    (
        lambda: candidate(reason="why"),
        "Candidate.reason must be given exactly when status is failed, got 'why'",
    ),
    (lambda: candidate(video_uri=None), "Candidate.video_uri must be given when status is ok, got None"),
    (lambda: candidate(sampler="x"), "Candidate.sampler must be a JSON object as text, got 'x'"),
    (
        lambda: score(value=float("nan")),
        "Score.value must be finite or None, got nan: use None and give a reason",
    ),
    (lambda: score(value=float("-inf")), "Score.value must be finite or None, got -inf"),
    (
        lambda: score(value=None, reason=None),
        "Score.reason must be given exactly when value is None, got None",
    ),
    (lambda: score(reason="but why"), "Score.reason must be given exactly when value is None, got 'but why'"),
    (
        lambda: score(w2c=[0.0] * 12),
        "Score.w2c must be 12 numbers for each of frame_indices, got '12 numbers'",
    ),
    (lambda: score(frame_indices=[0], intrinsics=[1.0]), "Score.intrinsics must be 9 numbers for each"),
    (
        lambda: pair(winner_value=-0.2),
        "Pair.winner_value must be above loser_value, both finite, got '-0.2 and",
    ),
    (lambda: pair(loser_value=float("nan")), "Pair.winner_value must be above loser_value, both finite"),
    (lambda: pair(human="swap"), "Pair.winner_value must be below loser_value in a swap, got .-0.1 and -0.2"),
    (lambda: pair(human="love"), "Pair.human must be keep, swap or None, got .love"),
    (lambda: pair(loser_id="a"), "Pair.loser_id must be another candidate than winner_id, got 'a'"),
    (lambda: pair(winner_latents=BLOB), "Pair.winner_latents must be given together with the rest"),
    (lambda: Reject(stage="", id="a", rule="r"), "Reject.stage must be a non-empty string, got ''"),
    (
        lambda: TensorBlob(data=b"", shape=(2,), dtype="float32"),
        r"TensorBlob.data must be 8 bytes for shape \(2,\)",
    ),
    (lambda: TensorBlob(data=b"", shape=(), dtype="object"), "TensorBlob.dtype must be one of float32"),
    (lambda: TensorBlob(data=bytes(4), shape=(-1, -1), dtype="float32"), "TensorBlob.data must be 4 bytes"),
]


@pytest.mark.parametrize(("build", "says"), BAD)
def test_a_bad_record_is_refused(build: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()


def test_records_are_frozen_and_keyword_only() -> None:
    with pytest.raises(AttributeError):
        prompt().text = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Prompt("p", "s", "train", "text")  # type: ignore[misc]
    assert pair(winner_latents=BLOB, loser_latents=BLOB, prompt_embeds=BLOB).image_latents is None


def test_the_tables_follow_from_the_records_and_are_what_they_were() -> None:
    """Another digest is another form of the shards: columns may be added, with nulls in old shards."""
    columns = [
        f"{table} {one.name} {one.type} {one.nullable}" for table, schema in TABLES.items() for one in schema
    ]
    digest = hashlib.sha256("\n".join(columns).encode()).hexdigest()
    assert digest.startswith("40e978d5e7d87bb2"), "\n".join(columns)
    for table, record in RECORDS.items():
        assert TABLES[table].names == [one.name for one in dataclasses.fields(record)]
        assert set(KEYS[table]) | set(ADDED.get(table, ())) <= set(TABLES[table].names)
        assert all(TABLES[table].field(name).nullable for name in ADDED.get(table, ()))
