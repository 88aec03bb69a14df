"""Every relative link and anchor of the README and of docs/ leads somewhere, and the README stays short."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 175

_FENCED = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
_LABELLED = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def links(text: str) -> list[str]:
    """Targets of links and pictures, those in code left out."""
    prose = _CODE.sub("", _FENCED.sub("", text))
    return [markdown or html for markdown, html in _LINK.findall(prose)]


def anchors(text: str) -> set[str]:
    """What GitHub names the headings: small letters, hyphens for spaces, a number where one comes again."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        plain = _LABELLED.sub(r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = (f"{slug}-{number}" for number in range(1, 1000))
        found.add(slug if slug not in found else next(name for name in again if name not in found))
    return found


@cache
def anchors_of(page: Path) -> set[str]:
    return anchors(page.read_text(encoding="utf-8"))


def broken(page: Path, text: str) -> list[str]:
    """Links of `page` that lead nowhere, out of the repository, or to a heading that is not there."""
    wrong: list[str] = []
    for link in links(text):
        if _ELSEWHERE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            wrong.append(f"{link}: no such file in the repository")
        elif anchor and (target.suffix != ".md" or anchor not in anchors_of(target)):
            wrong.append(f"{link}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a](docs/missing.md)", "no such file"),
        ("![a](docs/missing.png)", "no such file"),
        ('<img src="docs/missing.png">', "no such file"),
        ("[a](../outside.md)", "no such file"),
        ("[a](/docs/data.md)", "no such file"),
        ("[a](#missing)", "no such heading"),
        ("[a](docs/data.md#missing)", "no such heading"),
        ("[a](LICENSE#missing)", "no such heading"),
    ],
)
def test_the_check_sees_a_broken_link(text: str, message: str) -> None:
    (found,) = broken(README, text)
    assert message in found


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/data.md#a-run)",
        "[a](LICENSE)",
        "[a](docs)",
        "[a](https://example.org/#b)",
        "`[a](code.md)`",
        "```\n[a](code.md)\n```",
    ],
)
def test_the_check_lets_a_right_link_pass(text: str) -> None:
    assert broken(README, text) == []


def test_anchors_are_those_of_github() -> None:
    text = "# A `b` [c](d.md), e!\n## Twice\n## Twice\n```\n# code\n```\n"
    assert anchors(text) == {"a-b-c-e", "twice", "twice-1"}


def test_the_readme_leads_to_every_page() -> None:
    targets = {link.partition("#")[0] for link in links(README.read_text(encoding="utf-8"))}
    assert {f"docs/{page.name}" for page in PAGES if page != README} <= targets


def test_the_readme_is_short() -> None:
    count = len(README.read_text(encoding="utf-8").splitlines())
    assert count <= README_LINES, f"README.md has {count} lines, {README_LINES} at most: move text to docs/"
