"""Files of a folder that list its videos: lines of paths and of prompts, or the metadata of a data set.

    videos.txt, prompts.txt             a path a line, its prompt on the same line; images.txt: first frames
    metadata.jsonl, .csv, .parquet      columns file_name and text, as the VideoFolder of datasets has them

They are for the folders below too: a video that is not listed is refused, not taken under another prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.importing.captions import LINE_FILES, VIDEO_LIST
from pipeline.importing.manifest import Entry, entry, reject, seed_of_name
from pipeline.importing.tables import Columns, table_rows
from storage.errors import UserError
from storage.media.external_files import Refused, confined
from storage.tables.records import Reject
from storage.texts import read_text

_IMAGE_LIST = "images.txt"
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_FILE, _TEXTS = "file_name", ("text", "prompt", "caption")
_OWN = ("seed", "first_frame", "scene_id", "split")
_COLUMNS = Columns(required=(_FILE,), optional=(*_TEXTS, *_OWN), others=True)
_MAX_BYTES = 2**28


@dataclass(kw_only=True)
class Listing:
    """A file that lists videos: `where` in the source, in `folder`. `files` are those found to be listed."""

    where: str
    folder: str
    names: list[str]
    files: set[Path] = field(default_factory=set)


def listing_of(source: Path, where: str, names: list[str], allow_outside: bool) -> Listing | None:
    """What lists the videos of a folder, if anything does. Raises Refused where two files do."""
    found = [name for name in (VIDEO_LIST, *_METADATA) if name in names]
    found = [
        name
        for name in found
        if name == VIDEO_LIST or _lists_files(confined(source, _join(where, name), allow_outside))
    ]
    if len(found) > 1:
        raise Refused("ambiguous-prompt", f"holds {' and '.join(found)}, which both list videos: keep one")
    return Listing(where=_join(where, found[0]), folder=where, names=names) if found else None


def listed_entries(source: Path, listing: Listing, allow_outside: bool) -> Iterator[Entry | Reject]:
    """The videos of a listing in its order, or why they are not taken in."""

    def find(name: str) -> Path:
        return confined(source, _join(listing.folder, name), allow_outside)

    try:
        of_lines = Path(listing.where).name == VIDEO_LIST
        caption = "list of prompts" if of_lines else "metadata file"
        rows = _lines(listing, find) if of_lines else _metadata(find(Path(listing.where).name))
        for number, values in rows:
            where = f"{listing.where}:{number}"
            try:
                if isinstance(values, Refused):
                    raise values
                if isinstance(values.get("path"), str):
                    listing.files.add(find(values["path"]))
                    values.setdefault("seed", seed_of_name(_join(listing.folder, values["path"])))
                if "fault" in values:
                    raise values["fault"]
                found = entry(where, values, find, caption)
                yield replace(found, file=_join(listing.folder, found.file))
            except Refused as error:
                yield reject(where, error)
    except UserError as error:
        refused = error if isinstance(error, Refused) else Refused("malformed", str(error))
        yield reject(listing.where, refused)


def _lines(listing: Listing, find: Callable[[str], Path]) -> Iterator[tuple[int, dict[str, Any]]]:
    texts = [name for name in LINE_FILES if name in listing.names]
    if len(texts) != 1:
        held = f"holds {' and '.join(texts)}" if texts else "holds no prompts.txt"
        raise Refused("ambiguous-prompt", f"lists videos, and the folder {held}: keep one, of a line a video")
    columns = {"path": VIDEO_LIST, "prompt": texts[0]}
    if _IMAGE_LIST in listing.names:
        columns["first_frame"] = _IMAGE_LIST
    lines = {name: _lines_of(read_text(find(file), _MAX_BYTES)) for name, file in columns.items()}
    counts = {columns[name]: len(found) for name, found in lines.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{file} has {count}" for file, count in counts.items())
        raise Refused("lines-differ", f"{told} lines: write one line for each video into each file")
    for number, cells in enumerate(zip(*lines.values(), strict=True), 1):
        if any(cells):
            yield number, dict(zip(lines, cells, strict=True))


def _lines_of(text: str) -> list[str]:
    """The lines of a file that has one for each video; blank ones at its end are none."""
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")]


def _metadata(path: Path) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    for number, values in table_rows(path, _COLUMNS):
        if isinstance(values, Refused):
            yield number, values
            continue
        texts = [name for name in _TEXTS if name in values]
        if len(texts) != 1:
            got = f"has {' and '.join(texts)}" if texts else f"has none of {', '.join(_TEXTS)}"
            fault = Refused("missing-field", f"{got}: say in one of them what the video shows")
            # Its path still counts as listed.
            yield number, {"path": values.get(_FILE), "fault": fault}
            continue
        row = {"path": values.get(_FILE), "prompt": values[texts[0]]}
        row |= {name: values[name] for name in _OWN if name in values}
        others = {name: value for name, value in values.items() if name not in (_FILE, *_TEXTS, *_OWN)}
        # Columns of another kind, such as times, are kept as their text.
        yield number, row | {"metadata": json.loads(json.dumps(others, default=str))}


def _lists_files(path: Path) -> bool:
    """Whether a table names files; one that cannot be read does, so that its fault is told."""
    try:
        first = next(table_rows(path, Columns(required=(), optional=(), others=True)), None)
    except UserError:
        return True
    return first is not None and (isinstance(first[1], Refused) or _FILE in first[1])


def _join(where: str, name: str) -> str:
    return f"{where}/{name}" if where and not name.startswith("/") else name
