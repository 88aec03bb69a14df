"""Text that strangers bring: how a prompt is written, and files of text and of JSON lines.

The one place where these are read, so that the same caption is the same prompt wherever it stands.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.errors import UserError
from storage.media.external_files import Refused, show
from storage.tables.ids import canonical_json

MAX_TEXT = 20_000
_MAX_METADATA = 64 * 2**10
_MAX_LINE = 2**20
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
# Characters without ink: by their categories, and those that these do not tell: joiners,
# fillers of Hangul and Khmer, an empty pattern of Braille, selectors of variants.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_UNSEEN_KINDS = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
# Bytes of the beginning of a file that tell UTF-16 without its mark.
_HEAD = 16


def one_writing(text: str) -> str:
    """A text as a run keeps it: composed (Unicode NFC), lines ended by \\n, no white space around it.

    White space inside stays: a tokenizer may tell it apart, and two captions that differ in it are two.
    """
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def text_of(value: Any, name: str) -> str:
    """A text as a run keeps it (`one_writing`). Raises Refused for what tables and tokenizers cannot hold."""
    text = one_writing(string_of(value, name))
    if not text:
        raise Refused("bad-text", f"{name} is empty: say what the video shows")
    if len(text) > MAX_TEXT:
        raise Refused("bad-text", f"{name} has {len(text)} characters, at most {MAX_TEXT} are taken: cut it")
    if "\0" in text:
        raise Refused("bad-text", f"{name} holds a NUL byte: is it text? write it as UTF-8")
    if not any(map(_is_seen, text)):
        what = f"{name} is empty but for invisible characters, {short(text)}"
        raise Refused("bad-text", f"{what}: say what the video shows")
    return text


def _is_seen(character: str) -> bool:
    """Whether a character leaves ink: no control or format character, no space, no filler."""
    return unicodedata.category(character) not in _UNSEEN_KINDS and not _UNSEEN.match(character)


def string_of(value: Any, name: str) -> str:
    """A string that UTF-8 can write. Raises Refused for another value and for half of a surrogate pair."""
    if not isinstance(value, str):
        raise Refused("bad-field", f"{name} must be text, got {type(value).__name__}: put it in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("not-utf-8", f"{name} is not UTF-8 text: {short(value)}; write it as UTF-8") from error
    return value


def metadata_of(value: Any) -> dict[str, Any]:
    """A JSON object, which may be JSON text. Raises Refused for another value, NaN, and a large one."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        text = canonical_json(found)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("not-utf-8", "metadata is not UTF-8 text: write it as UTF-8") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused("bad-field", f"metadata is no plain JSON ({error}): write a JSON object") from error
    if not isinstance(found, dict) or len(text) > _MAX_METADATA:
        raise Refused(
            "bad-field",
            f"metadata must be a JSON object of at most {_MAX_METADATA} characters, got a "
            f"{type(found).__name__} of {len(text)}: change it",
        )
    return found


def require_utf8_name(path: Path, what: str) -> None:
    """Raise UserError for a place whose name is not UTF-8: tables and the libraries below take no other."""
    name = str(path.absolute())
    if name == show(name):
        return
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        why = "is not UTF-8: rename it, or the folder above it that is not"
    else:
        why = "is UTF-8, and this Python reads names otherwise: set PYTHONUTF8=1, or another locale"
    raise UserError(f"the name of {what} {show(str(path))} {why}")


def short(value: Any) -> str:
    """A value as an error names it."""
    return repr(value)[:60]


def read_text(path: Path, most: int = _MAX_LINE) -> str:
    """A text file of at most so many bytes, without its byte order mark.

    Raises Refused for what is no UTF-8 text.
    """
    name = show(path.name)
    try:
        if not path.is_file():
            raise Refused("bad-text", f"{name} is not a regular file: write the text into it")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Refused("unreadable", f"{name} cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise Refused("bad-text", f"{name} has over {most} bytes: is it a text?")
    if is_utf16(data):
        raise Refused("not-utf-8", f"{name} is UTF-16 text: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("not-utf-8", f"{name} is not UTF-8 text: write it as UTF-8") from error


def is_utf16(head: bytes) -> bool:
    """Whether bytes begin as UTF-16 or UTF-32 does: with its mark, or with Latin letters for the most part.

    These have a NUL at every second byte, on one side; a single NUL is a fault in a text of UTF-8.
    """
    marked = head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:4] == b"\0\0\xfe\xff"
    even, odd = (head[side:_HEAD:2].count(0) for side in (0, 1))
    return marked or (even != odd and max(even, odd) > max(1, min(len(head), _HEAD) // 4))


def require_utf8(path: Path) -> None:
    """Raise UserError for a file of UTF-16 text, OSError for one that cannot be opened."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if is_utf16(head):
        raise UserError(f"{show(str(path))} is UTF-16 text: save it as UTF-8")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    """Number and object of every line of a JSONL file, or why it cannot be understood; blank lines count.

    A byte order mark may begin a line, as where files were joined. Raises UserError for UTF-16, OSError for
    a file that cannot be read.
    """
    require_utf8(path)
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(_MAX_LINE)
                yield number, Refused("malformed", f"is a line of over {_MAX_LINE} bytes: cut it")
            elif line.strip(_BLANK + _BOM):
                yield number, _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | Refused:
    try:
        value = json.loads(line.removeprefix(_BOM).decode("utf-8"), object_pairs_hook=_once_each)
    except Refused as error:
        return error
    except UnicodeDecodeError as error:
        return Refused("not-utf-8", f"is not UTF-8 text (byte {error.start}): write it as UTF-8")
    except (ValueError, RecursionError) as error:
        return Refused("malformed", f"is malformed JSON ({error}): write one JSON object a line")
    if not isinstance(value, dict):
        return Refused("malformed", f"is a JSON {type(value).__name__}, no object: write one object a line")
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused("malformed", f"has {short(twice)} twice: keep one of each name")
    return found
