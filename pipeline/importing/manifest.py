"""What is to be imported, as a manifest says it: entries, and the file that lists them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import UserError
from storage.media.external_video import Refused, confined, show
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
        seed=_seed_of(given["seed"]),
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


def _seed_of(value: Any) -> int:
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


_REQUIRED = ("prompt", "seed", "path")
_COLUMNS = (*_REQUIRED, "first_frame", "scene_id", "split", "metadata")
FORMATS = (".jsonl", ".csv", ".parquet")
_MAX_LINE = 2**20
_BATCH = 256
# What a row holds, or why it cannot be understood.
_Row = tuple[str, "dict[str, Any] | Refused"]


def manifest_entries(path: Path, allow_outside: bool) -> Iterator[Entry | Reject]:
    """Every video of a manifest in its order, or why it is not taken in. Paths are relative to its folder.

    Raises UserError for a manifest that cannot be read as a whole: another format, missing columns.
    """
    for where, values in _rows(path):
        try:
            if isinstance(values, Refused):
                raise values
            yield entry(where, values, lambda name: confined(path.parent, name, allow_outside))
        except Refused as error:
            yield reject(where, error)


def _rows(path: Path) -> Iterator[_Row]:
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{show(str(path))} is no manifest that is known: give a folder, or one of {', '.join(FORMATS)}"
        )
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{path} is UTF-16 text: save it as UTF-8")
        yield from reader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check the path") from error


def _jsonl(path: Path) -> Iterator[_Row]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            where = f"{show(path.name)}:{number}"
            if len(line) > _MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(_MAX_LINE)
                yield where, Refused("malformed", f"is a line of over {_MAX_LINE} bytes: cut it")
            elif line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield where, _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | Refused:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Refused("not-utf-8", f"is not UTF-8 text (byte {error.start}): write it as UTF-8")
    except (ValueError, RecursionError) as error:
        return Refused("malformed", f"is malformed JSON ({error}): write one JSON object a line")
    if not isinstance(value, dict):
        return Refused("malformed", f"is a JSON {type(value).__name__}, no object: write one object a line")
    unknown = sorted(set(value) - set(_COLUMNS))
    if unknown:
        return Refused("unknown-field", f"has the unknown field {unknown[0]!r}; {_known()}")
    return value


def _csv(path: Path) -> Iterator[_Row]:
    # Bytes that are no UTF-8 pass as surrogates, so that they cost their own row only.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise UserError(f"{path} is no CSV file ({error}): write one with a header line") from error
        _require_columns(path, header)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield (
                    f"{show(path.name)}:{start}",
                    Refused(
                        "malformed", f"is malformed CSV ({error}); what follows was not read: correct it"
                    ),
                )
                return
            if cells:
                yield f"{show(path.name)}:{start}", _named(header, cells)


def _named(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | Refused:
    if len(cells) != len(header):
        return Refused("malformed", f"has {len(cells)} cells, the header has {len(header)}: quote commas")
    for name, cell in zip(header, cells, strict=True):
        if "\0" in cell:
            return Refused("malformed", f"holds a NUL byte in {name}: write the file again as UTF-8 text")
    return dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[_Row]:
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                for index in range(batch.num_rows):
                    number += 1
                    yield f"{show(path.name)}:{number}", _row(batch, index)
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file ({error}): write it again") from error


def _row(batch: pa.RecordBatch, index: int) -> dict[str, Any] | Refused:
    try:
        values = {name: batch.column(name)[index].as_py() for name in batch.schema.names}
    except (UnicodeDecodeError, pa.ArrowException) as error:
        return Refused("not-utf-8", f"holds text that is not UTF-8 ({error}): write it as UTF-8")
    # A map comes as pairs.
    with suppress(TypeError, ValueError):
        if isinstance(values.get("metadata"), list):
            values["metadata"] = dict(values["metadata"])
    return values


def _require_columns(path: Path, found: Iterable[str]) -> None:
    names = list(found)
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        listed = ", ".join(show(name)[:40] for name in names[:10]) or "none"
        raise UserError(f"{path} has no column {missing[0]!r}, its columns are {listed}; {_known()}")
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown:
        raise UserError(f"{path} has the unknown column {show(unknown[0])[:40]!r}; {_known()}")
    if len(set(names)) != len(names):
        raise UserError(f"{path} has a column twice: keep one of each name")


def _known() -> str:
    return (
        f"required are {', '.join(_REQUIRED)}, optional {', '.join(_COLUMNS[len(_REQUIRED) :])}: "
        "put anything else into metadata, a JSON object"
    )
