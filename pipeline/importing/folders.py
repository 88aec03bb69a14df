"""A folder of videos: PROMPT/SEED.mp4, with prompt.txt and first_frame.png beside them where there are any.

The prompt is what prompt.txt says, else the folder's name; folders may lie in folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.importing.manifest import MAX_TEXT, Entry, entry, reject, text_of
from storage.errors import UserError
from storage.media.external_video import Refused, confined, show
from storage.tables.records import Reject

VIDEOS = (".mp4", ".m4v", ".mov")
_OTHER_VIDEOS = (".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
_PROMPT_FILE = "prompt.txt"
_FIRST_FRAMES = ("first_frame.png", "first_frame.jpg", "first_frame.jpeg")


def folder_entries(source: Path, allow_outside: bool) -> Iterator[Entry | Reject]:
    """Every video under a folder in the order of the names, or why it is not taken in.

    Hidden files, and files that are no videos by their names, are passed over.
    """
    waiting = [("", frozenset[str]())]
    while waiting:
        where, above = waiting.pop()
        try:
            folder = confined(source, where or ".", allow_outside)
            if str(folder) in above:
                raise Refused("link", "is a link to a folder that it lies in: remove it")
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except Refused as error:
            yield reject(where, error)
            continue
        except OSError as error:
            why = f"cannot be listed ({error.strerror}): check the folder and its permissions"
            if not where:
                raise UserError(f"{source} {why}") from error
            yield reject(where, Refused("unreadable", why))
            continue
        yield from _videos(source, where, names, allow_outside)
        inner = [name for name in names if (folder / name).is_dir()]
        waiting += [(_join(where, name), above | {str(folder)}) for name in reversed(inner)]


def _videos(source: Path, where: str, names: list[str], allow_outside: bool) -> Iterator[Entry | Reject]:
    listed = [name for name in names if _suffix(name) in (*VIDEOS, *_OTHER_VIDEOS)]
    if not listed:
        return
    try:
        text = _prompt(source, where, names, allow_outside)
    except Refused as error:
        # Every video of the folder is named: its absence from the run has this reason.
        yield from (reject(_join(where, name), error) for name in listed)
        return
    image = next((name for name in _FIRST_FRAMES if name in names), None)
    for name in listed:
        try:
            if _suffix(name) not in VIDEOS:
                raise Refused("not-a-video", f"is a {_suffix(name)} file: convert it to mp4")
            values = {"prompt": text, "path": "video", "seed": _stem(name)}
            # A path need not be text that a table takes, so it is looked up by what it is for.
            paths = {"video": _join(where, name)}
            if image is not None:
                values["first_frame"] = "first frame"
                paths["first frame"] = _join(where, image)
            found = {use: confined(source, path, allow_outside) for use, path in paths.items()}
            yield entry(_join(where, name), values, found.__getitem__)
        except Refused as error:
            yield reject(_join(where, name), error)


def _prompt(source: Path, where: str, names: list[str], allow_outside: bool) -> str:
    if _PROMPT_FILE in names:
        path = confined(source, _join(where, _PROMPT_FILE), allow_outside)
        try:
            if not path.is_file():
                raise Refused("bad-text", f"{_PROMPT_FILE} is not a regular file: write the prompt into it")
            with path.open("rb") as file:
                data = file.read(4 * MAX_TEXT + 1)
            return text_of(data.decode("utf-8-sig"), _PROMPT_FILE)
        except UnicodeDecodeError as error:
            raise Refused("not-utf-8", f"{_PROMPT_FILE} is not UTF-8 text: write it as UTF-8") from error
        except OSError as error:
            raise Refused("unreadable", f"{_PROMPT_FILE} cannot be read ({error.strerror})") from error
    if not where:
        raise Refused("no-prompt", f"lies in no folder of a prompt: put it in one, or add a {_PROMPT_FILE}")
    name = Path(where).name
    if name != show(name):
        raise Refused("not-utf-8", f"the folder's name is not UTF-8: rename it, or add a {_PROMPT_FILE}")
    return text_of(name, "the folder's name")


def _join(where: str, name: str) -> str:
    return f"{where}/{name}" if where else name


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _stem(name: str) -> str:
    return show(Path(name).stem)
