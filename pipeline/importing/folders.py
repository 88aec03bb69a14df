"""A folder of videos, in any layout that says which video shows what.

    PROMPT/SEED.mp4                     the folder's name is the prompt, or what its prompt.txt says
    NAME.mp4 and NAME.txt               a caption beside each video (captions.py)
    prompts.txt and videos.txt          a line for each video, or metadata.jsonl (listings.py)

Folders may lie in folders, each in its own layout; first_frame.png is that of the videos beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.importing.captions import Captions
from pipeline.importing.listings import Listing, listed_entries, listing_of
from pipeline.importing.manifest import Entry, entry, reject
from storage.errors import UserError
from storage.media.external_files import Refused, confined, show
from storage.run import is_run
from storage.tables.records import Reject

# What a file is, is for its content to say; these are the names that are looked at.
VIDEOS = (
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv",
    ".ogv", ".3gp",
)  # fmt: skip
_FIRST_FRAMES = ("first_frame.png", "first_frame.jpg", "first_frame.jpeg", "first_frame.webp")


def folder_entries(source: Path, allow_outside: bool) -> Iterator[Entry | Reject]:
    """Every video under a folder in the order of the names, or why it is not taken in.

    Hidden files, files that are no videos by their names, and runs are passed over. Raises UserError where
    the folder cannot be listed, or is a run itself.
    """
    if is_run(source):
        raise UserError(
            f"{show(str(source))} is a run, whose videos have their prompts in its tables: "
            "give a folder of videos"
        )
    walk = _Walk(source, allow_outside)
    waiting: list[_Place] = [("", frozenset(), None)]
    while waiting:
        where, above, listing = waiting.pop()
        try:
            folder = confined(source, where or ".", allow_outside)
            if str(folder) in above:
                raise Refused("link", "is a link to a folder that it lies in: remove it")
            if is_run(folder):
                continue
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
            own = listing_of(source, where, names, allow_outside)
        except Refused as error:
            yield reject(where or ".", error)
            continue
        except OSError as error:
            why = f"cannot be listed ({error.strerror}): check the folder and its permissions"
            if not where:
                raise UserError(f"{show(str(source))} {why}") from error
            yield reject(where, Refused("unreadable", why))
            continue
        if own is not None:
            yield from listed_entries(source, own, allow_outside)
        listing = own or listing
        if listing is None:
            yield from walk.captioned(where, names)
        else:
            yield from walk.not_listed(where, names, listing)
        inner = [name for name in names if (folder / name).is_dir()]
        waiting += [(_join(where, name), above | {str(folder)}, listing) for name in reversed(inner)]


# A folder, those that it lies in, and what lists its videos, if anything does.
_Place = tuple[str, frozenset[str], "Listing | None"]


class _Walk:
    """The videos of one folder after the other."""

    def __init__(self, source: Path, allow_outside: bool) -> None:
        self._source, self._allow_outside = source, allow_outside

    def captioned(self, where: str, names: list[str]) -> Iterator[Entry | Reject]:
        """The videos of a folder by the captions beside them, or by its name."""
        videos = [name for name in names if _suffix(name) in VIDEOS]
        captions = Captions(self._source, where, names, videos, self._allow_outside)
        image = next((name for name in _FIRST_FRAMES if name in names), None)
        for name in videos:
            try:
                text, seed, caption = captions.of(name)
                values = {"prompt": text, "path": "video", "seed": seed}
                # A path need not be text that a table takes, so it is looked up by what it is for.
                paths = {"video": _join(where, name)}
                if image is not None:
                    values["first_frame"] = "first frame"
                    paths["first frame"] = _join(where, image)
                found = {use: self._confined(path) for use, path in paths.items()}
                path = _join(where, name)
                yield entry(path, values, found.__getitem__, caption, show(path))
            except Refused as error:
                yield reject(_join(where, name), error)

    def not_listed(self, where: str, names: list[str], listing: Listing) -> Iterator[Reject]:
        """The videos of a folder that the list above them leaves out."""
        for name in names:
            try:
                if _suffix(name) in VIDEOS and self._confined(_join(where, name)) not in listing.files:
                    raise Refused(
                        "not-listed", f"is not in {show(listing.where)}: add it there, or move it elsewhere"
                    )
            except Refused as error:
                yield reject(_join(where, name), error)

    def _confined(self, path: str) -> Path:
        return confined(self._source, path, self._allow_outside)


def _join(where: str, name: str) -> str:
    return f"{where}/{name}" if where else name


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()
