"""What a person decided about pairs, read from a file: keep, drop or swap, by prompt and both candidates.

A decision names the winner and the loser that the person saw. keep says that the first is the better one,
swap that the second is, drop that the pair teaches nothing. So it means the same however a later selection
ranks the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.errors import UserError

WORDS = ("keep", "drop", "swap")
_SCHEMA = pa.schema(
    [
        pa.field("place", pa.int64(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("better_id", pa.string(), nullable=False),
        pa.field("worse_id", pa.string(), nullable=False),
        pa.field("dropped", pa.bool_(), nullable=False),
    ]
)
_IDS = ("prompt_id", "winner_id", "loser_id")
_MAX_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The decisions of a file, one per pair of candidates; of a dropped pair neither is the better one.

    `table` has the columns of _SCHEMA in the order of the file, `place` counting its entries from 1. `sha256`
    names the bytes that were read.
    """

    path: Path
    table: pa.Table
    sha256: str


def read_decisions(path: Path) -> Decisions:
    """Read JSON Lines, a JSON array, or a JSON object whose `decisions` is one.

    An entry that repeats an earlier one changes nothing. Raises UserError for a missing file and, naming the
    entry, for an unknown word, an entry without its ids, a pair of one candidate, and two decisions that
    contradict each other.
    """
    data = _read(path)
    verdicts: dict[tuple[str, str, str], tuple[int, str | None]] = {}
    for place, entry in enumerate(_entries(path, data), start=1):
        prompt_id, winner_id, loser_id, word = _checked(path, place, entry)
        first, second = sorted((winner_id, loser_id))
        better = {"keep": winner_id, "swap": loser_id, "drop": None}[word]
        earlier = verdicts.setdefault((prompt_id, first, second), (place, better))
        if earlier[1] != better:
            raise UserError(
                f"{path} contradicts itself: entries {earlier[0]} and {place} decide differently about "
                f"candidates {first} and {second} of prompt {prompt_id}: remove one of them"
            )
    rows = [_row(key, *verdict) for key, verdict in verdicts.items()]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    return Decisions(path=path, table=table, sha256=hashlib.sha256(data).hexdigest())


def _row(key: tuple[str, str, str], place: int, better: str | None) -> dict[str, Any]:
    prompt_id, first, second = key
    worse = first if better == second else second
    return {
        "place": place,
        "prompt_id": prompt_id,
        "better_id": better or first,
        "worse_id": worse,
        "dropped": better is None,
    }


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} has more than {_MAX_BYTES} bytes: give a file of decisions")
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"decisions {path} cannot be read ({error.strerror}): give the file that the report exported"
        ) from error


def _entries(path: Path, data: bytes) -> Iterator[Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: give the file that the report exported") from error
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        yield from _lines(path, text)
        return
    if isinstance(whole, dict) and isinstance(whole.get("decisions"), list):
        whole = whole["decisions"]
    yield from whole if isinstance(whole, list) else [whole]


def _lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path} line {number} is not JSON: give one object a line, or one JSON array"
                ) from error


def _checked(path: Path, place: int, entry: Any) -> tuple[str, str, str, str]:
    if not isinstance(entry, dict):
        raise UserError(f"{path} entry {place} must be an object, got {_short(entry)}: correct it")
    for name in _IDS:
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise UserError(
                f"{path} entry {place}: {name} must be an id, got {_short(entry.get(name))}: correct it"
            )
    word = entry.get("decision")
    if word not in WORDS:
        raise UserError(
            f"{path} entry {place}: decision must be one of {', '.join(WORDS)}, got {_short(word)}: "
            "correct it"
        )
    prompt_id, winner_id, loser_id = (entry[name] for name in _IDS)
    if winner_id == loser_id:
        raise UserError(
            f"{path} entry {place}: winner_id and loser_id must be two candidates, got {_short(winner_id)} "
            "twice: correct it"
        )
    return prompt_id, winner_id, loser_id, word


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
