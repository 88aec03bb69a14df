"""What is to be imported: an entry for each video, and the manifest that lists them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.importing.tables import FORMATS, Columns, table_rows
from pipeline.sampling.prompts import split_named
from storage.media.external_files import Refused, confined, show
from storage.tables.ids import Split, content_id
from storage.tables.records import Reject
from storage.texts import metadata_of, short, string_of, text_of

__all__ = ["FORMATS", "STAGE", "Entry", "entry", "manifest_entries", "reject", "seed_of_name"]

STAGE = "import"
_MAX_SEED = 2**63
# From here on a floating point number does not tell an integer from its neighbour.
_EXACT = 2**53
_DIGITS = re.compile(r"\s*([0-9]{1,39})(\.0*)?\s*")
_NUMBERED = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A video that a source lists. `where` is what a person finds it by; paths are real and allowed.

    `file` is the video as the source names it, `caption` what says its text.
    """

    where: str
    file: str
    caption: str
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


def entry(
    where: str, values: dict[str, Any], find: Callable[[str], Path], caption: str, file: str | None = None
) -> Entry:
    """An entry of named values, `find` turning paths into allowed ones. Raises Refused for a bad value.

    Empty and absent are the same. `seed` may be text, a number that is an integer; `scene_id` a number;
    `metadata` JSON text. `file` is the name of the video where its `path` is none.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    for name in ("prompt", "path", "seed"):
        if name not in given:
            raise Refused("missing-field", f"has no {name}: every video needs a prompt, a path and a seed")
    first_frame = given.get("first_frame")
    return Entry(
        where=where,
        file=file or string_of(given["path"], "path"),
        caption=caption,
        text=text_of(given["prompt"], "prompt"),
        seed=_seed_of(given["seed"]),
        path=find(string_of(given["path"], "path")),
        first_frame=None if first_frame is None else find(string_of(first_frame, "first_frame")),
        scene_id=text_of(_label(given["scene_id"]), "scene_id") if "scene_id" in given else None,
        split=split_named(given["split"]) if "split" in given else None,
        metadata=metadata_of(given.get("metadata", {})),
    )


def seed_of_name(name: str) -> int:
    """The seed of a video, named by its path in the source, where nothing says one.

    The number that the file is called by, else one by hash of the path: what other files there are, or come
    later, changes neither.
    """
    stem = PurePosixPath(name).stem
    if _NUMBERED.fullmatch(stem):
        return int(stem)
    return int(content_id("import-seed", unicodedata.normalize("NFC", name))[:16], 16) % _MAX_SEED


def _seed_of(value: Any) -> int:
    """A seed of digits or an integer. Raises Refused for another value and for one out of range."""
    fraction = False
    if isinstance(value, str) and (digits := _DIGITS.fullmatch(value)):
        value, fraction = int(digits[1]), bool(digits[2])
    if isinstance(value, float | Decimal) and value == value // 1:
        # What a table with a gap makes of a column of integers.
        value, fraction = int(value), isinstance(value, float)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_SEED:
        raise Refused("bad-seed", f"seed {short(value)} is no integer from 0 to 2**63 - 1: number the videos")
    if fraction and value >= _EXACT:
        raise Refused(
            "bad-seed",
            f"seed {value} went through a floating point number, which keeps 53 bits of it: write integers",
        )
    return value


def _label(value: Any) -> Any:
    """A name that may be a number, as text."""
    if isinstance(value, float | Decimal) and value == value // 1:
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_COLUMNS = Columns(
    required=("prompt", "seed", "path"), optional=("first_frame", "scene_id", "split", "metadata")
)


def manifest_entries(path: Path, allow_outside: bool) -> Iterator[Entry | Reject]:
    """Every video of a manifest in its order, or why it is not taken in. Paths are relative to its folder.

    Raises UserError for a manifest that cannot be read as a whole: another format, missing columns.
    """
    for number, values in table_rows(path, _COLUMNS):
        where = f"{show(path.name)}:{number}"
        try:
            if isinstance(values, Refused):
                raise values
            yield entry(where, values, lambda name: confined(path.parent, name, allow_outside), "manifest")
        except Refused as error:
            yield reject(where, error)
