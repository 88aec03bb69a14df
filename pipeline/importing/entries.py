"""What a source lists, checked field by field: a row that breaks a rule is refused, the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from storage.media.external_video import Refused
from storage.media.ingest import show
from storage.tables.ids import SPLITS, Split, canonical_json
from storage.tables.records import Reject

STAGE = "import"
MAX_TEXT = 20_000
_MAX_SEED = 2**63
_MAX_METADATA = 64 * 2**10


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A video that a source lists. `where` is what a person finds it by; paths are real and allowed."""

    where: str
    text: str
    seed: int
    path: Path
    first_frame: Path | None = None
    scene_id: str | None = None
    split: Split | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def reject(where: str, error: Refused) -> Reject:
    """The row that says why something was not taken in."""
    return Reject(stage=STAGE, id=show(where), rule=error.rule, detail=f"{show(where)}: {show(str(error))}")


def entry(where: str, values: dict[str, Any], find: Callable[[str], Path]) -> Entry:
    """An entry of named values, `find` turning paths into allowed ones. Raises Refused for a bad value.

    Empty and absent are the same. `seed` may be text; `metadata` may be JSON text.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    for name in ("prompt", "path", "seed"):
        if name not in given:
            raise Refused("missing-field", f"has no {name}: every video needs a prompt, a path and a seed")
    first_frame = given.get("first_frame")
    return Entry(
        where=where,
        text=text_of(given["prompt"], "prompt"),
        seed=seed_of(given["seed"]),
        path=find(_string(given["path"], "path")),
        first_frame=None if first_frame is None else find(_string(first_frame, "first_frame")),
        scene_id=text_of(given["scene_id"], "scene_id") if "scene_id" in given else None,
        split=_split(given["split"]) if "split" in given else None,
        metadata=_metadata(given.get("metadata", {})),
    )


def text_of(value: Any, name: str) -> str:
    """Text without the white space around it. Raises Refused for what tables cannot hold."""
    text = _string(value, name).strip()
    if not text:
        raise Refused("bad-text", f"{name} is empty: say what the video shows")
    if len(text) > MAX_TEXT:
        raise Refused("bad-text", f"{name} has {len(text)} characters, at most {MAX_TEXT} are taken: cut it")
    if "\0" in text:
        raise Refused("bad-text", f"{name} holds a NUL byte: is it text? write it as UTF-8")
    return text


def seed_of(value: Any) -> int:
    """A seed of digits or an integer. Raises Refused for another value and for one out of range."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 40:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        # What a table with a gap makes of a column of integers.
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_SEED:
        raise Refused(
            "bad-seed", f"seed {_short(value)} is no integer from 0 to 2**63 - 1: number the videos"
        )
    return value


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Refused("bad-field", f"{name} must be text, got {type(value).__name__}: put it in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("not-utf-8", f"{name} is not UTF-8 text: {_short(value)}; write it as UTF-8") from error
    return value


def _split(value: Any) -> Split:
    if value not in SPLITS:
        raise Refused(
            "bad-field", f"split must be one of {', '.join(SPLITS)}, got {_short(value)}: change it"
        )
    return cast(Split, value)


def _metadata(value: Any) -> dict[str, Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
        text = canonical_json(found)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused("bad-field", f"metadata is no plain JSON ({error}): write a JSON object") from error
    if not isinstance(found, dict) or len(text) > _MAX_METADATA:
        raise Refused(
            "bad-field",
            f"metadata must be a JSON object of at most {_MAX_METADATA} characters, got a "
            f"{type(found).__name__} of {len(text)}: change it",
        )
    return found


def _short(value: Any) -> str:
    return repr(value)[:60]
