"""Texts of strangers: one writing for one caption, and a reason for what is no text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UserError
from storage.media.external_files import Refused
from storage.texts import json_lines, one_writing, read_text, text_of

CAPTIONS = ["a café at night", "Ångström über Zürich", "한국의 집", "Việt Nam", "a hall,\nwith a door"]


@pytest.mark.parametrize("text", CAPTIONS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("around", ["{}", " {}", "{} ", "\t{}\r\n", "\u3000{}\u00a0"])
def test_a_caption_is_one_text_however_it_is_written(text: str, form: str, around: str) -> None:
    written = around.format(unicodedata.normalize(form, text).replace("\n", "\r\n"))
    assert text_of(written, "prompt") == unicodedata.normalize("NFC", text)


@given(st.text(max_size=40))
def test_what_is_in_one_writing_stays(text: str) -> None:
    assert one_writing(one_writing(text)) == one_writing(text)


@pytest.mark.parametrize(
    "text",
    [
        "a  hall",
        "a\thall",
        "a hall\n\nand a room",
        "\U0001fae8",
        "x\u200by",
        "\u200bx",
        "?",
        "❤\ufe0f",
        "क\u094d\u200d",
        "\ufb01nal",
        "²",
    ],
)
def test_what_a_tokenizer_may_tell_apart_stays(text: str) -> None:
    assert text_of(text, "prompt") == text


@pytest.mark.parametrize(
    ("value", "rule", "reason"),
    [
        ("", "bad-text", "prompt is empty"),
        (" \u00a0\n", "bad-text", "prompt is empty"),
        ("\u200b\u200d", "bad-text", r"is empty but for invisible characters, '\\u200b\\u200d': say what"),
        ("\u2060 \n\u00ad\ufe0f", "bad-text", "prompt is empty but for invisible characters"),
        ("\u3164", "bad-text", "prompt is empty but for invisible characters"),
        ("\U000e0041", "bad-text", "prompt is empty but for invisible characters"),
        ("a\0b", "bad-text", "prompt holds a NUL byte"),
        ("\0", "bad-text", "prompt holds a NUL byte"),
        ("a\ud800", "not-utf-8", r"prompt is not UTF-8 text: 'a\\ud800'"),
        ("x" * 20_001, "bad-text", "has 20001 characters, at most 20000"),
        (7, "bad-field", "prompt must be text, got int"),
    ],
)
def test_what_no_table_holds_is_refused(value: object, rule: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        text_of(value, "prompt")
    assert refused.value.rule == rule


def lines(path: Path, data: bytes) -> list[object]:
    path.write_bytes(data)
    return [str(value) if isinstance(value, Refused) else value for _, value in json_lines(path)]


def test_lines_of_json_with_marks_and_every_line_end(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    data = mark + b'{"a": 1}\r\n\r\n' + mark + b'{"a": "\xc3\xa9"}\n  \n{"a": "\\ud83d\\ude00"}'
    assert lines(tmp_path / "a.jsonl", data) == [{"a": 1}, {"a": "é"}, {"a": "😀"}]


BAD: dict[str, tuple[bytes, str]] = {
    "malformed": (b'{"a": ', "is malformed JSON"),
    "list": (b"[1]", "is a JSON list, no object"),
    "latin": (b'{"a": "\xe9"}', "is not UTF-8 text (byte 7)"),
    "twice": (b'{"a": 1, "a": 2}', "has 'a' twice: keep one"),
    "twice within": (b'{"a": {"b": 1, "b": 2}}', "has 'b' twice"),
    "deep": (b"[" * 100_000, "is malformed JSON"),
    "long": (b'{"a": "' + b"x" * 2**20 + b'"}', "is a line of over 1048576 bytes"),
    "digits": (b'{"a": ' + b"1" * 5000 + b"}", "is malformed JSON"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_line_that_is_no_object_says_why_and_costs_itself(tmp_path: Path, what: str) -> None:
    line, reason = BAD[what]
    found = lines(tmp_path / "a.jsonl", b'{"b": 1}\n' + line + b'\n{"b": 2}\n')
    assert [found[0], found[2]] == [{"b": 1}, {"b": 2}]
    assert reason in str(found[1])


WIDE: list[Callable[[str], bytes]] = [
    lambda text: text.encode("utf-16"),
    lambda text: text.encode("utf-16-le"),
    lambda text: text.encode("utf-16-be"),
    lambda text: text.encode("utf-32"),
    lambda text: text.encode("utf-32-le"),
    lambda text: text.encode("utf-32-be"),
]


@pytest.mark.parametrize("encode", WIDE)
def test_utf_16_is_named(tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    (tmp_path / "a.jsonl").write_bytes(encode('{"text": "a"}'))
    with pytest.raises(UserError, match=r"a\.jsonl is UTF-16 text: save it as UTF-8"):
        list(json_lines(tmp_path / "a.jsonl"))
    (tmp_path / "a.txt").write_bytes(encode("a hall"))
    with pytest.raises(Refused, match=r"a\.txt is UTF-16 text: save it as UTF-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ["“A hall”, at night", "no", "l'été à la mer", "été", "a hall 日本"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named_in_a_caption(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(Refused, match="UTF-16"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ["a\0b", "a\0", "\0a", "a\0bc", "\0\0\0\0", "a hall\0a room\0", "é\0\0"])
def test_a_nul_in_a_caption_is_no_utf_16(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    with pytest.raises(Refused, match=r"a\.txt holds a NUL byte") as refused:
        text_of(read_text(tmp_path / "a.txt"), "a.txt")
    assert refused.value.rule == "bad-text"


def test_a_text_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "latin.txt").write_bytes("près".encode("latin-1"))
    (tmp_path / "large.txt").write_bytes(b"x" * 11)
    for name, most, message in (
        ("folder.txt", 10, "folder.txt is not a regular file"),
        ("none.txt", 10, "none.txt is not a regular file"),
        ("latin.txt", 10, "latin.txt is not UTF-8 text: write it as UTF-8"),
        ("large.txt", 10, "large.txt has over 10 bytes"),
    ):
        with pytest.raises(Refused, match=message):
            read_text(tmp_path / name, most)
    (tmp_path / "good.txt").write_bytes(b"\xef\xbb\xbfa hall")
    assert read_text(tmp_path / "good.txt") == "a hall"
