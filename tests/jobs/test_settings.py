"""Options follow from the fields of settings dataclasses: flags, types, defaults, presets, and errors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from jobs.main import COMMANDS
from jobs.settings.command import Command
from jobs.settings.from_dataclass import built, names_of, options_of, settings_of
from storage.errors import FieldError, UserError
from storage.mining.rules import OF_CANDIDATES, OF_PAIRS, REMEDIES, PairRules, PairSettings
from storage.tables.schemas import TABLES
from tests.jobs.test_cli import gpa


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = field(default=3, metadata={"help": "Across.", "metavar": "N"})

    def __post_init__(self) -> None:
        if self.width < 1:
            raise FieldError("width", ">= 1", self.width, "1 is the least; see also out_dir")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    word: Literal["a", "b"] = field(default="a", metadata={"help": "A word."})
    part: Literal["x", "y"] | None = field(default=None, metadata={"help": "A part.", "none": "all"})
    rate: float | None = field(default=None, metadata={"help": "A rate.", "default": "as it is"})
    out_dir: Path = field(default=Path("here"), metadata={"help": "A folder."})
    fast: bool = field(default=False, metadata={"help": "Fast."})
    link: bool = field(default=False, metadata={"help": "Links.", "flag": "--link/--copy"})
    names: tuple[str, ...] = field(default=(), metadata={"help": "Names."})
    hidden: int = 7


@click.command("made", cls=Command)
@options_of(Outer, without={"rate"})
def made(**chosen: Any) -> None:
    click.echo(built(Outer, chosen))


def run(*words: str) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(made, words)
    return done.exit_code, done.output, done.exception


def test_options_are_what_the_fields_say() -> None:
    assert run()[1] == f"{Outer()}\n"
    words = ["--width", "5", "--word", "b", "--part", "y", "--out-dir", "/x", "--fast", "--link"]
    expected = Outer(
        inner=Inner(width=5), word="b", part="y", out_dir=Path("/x"), fast=True, link=True, names=("p", "q")
    )
    assert run(*words, "--names", "p", "--names", "q")[1] == f"{expected}\n"
    assert run("--part", "all")[1] == f"{Outer()}\n"
    assert "'a', 'b'" in run("--word", "c")[1]
    assert "No such option '--hidden'" in run("--hidden", "3")[1]
    assert "No such option '--rate'" in run("--rate", "3")[1]
    assert names_of(Outer) == ("width", "word", "part", "rate", "out_dir", "fast", "link", "names")


def test_what_is_left_open_or_recorded_as_texts_is_built() -> None:
    assert built(Outer, {}) == Outer()
    assert built(Outer, {"width": None, "part": "all", "out_dir": "/x", "unknown": 3}) == Outer(
        out_dir=Path("/x")
    )
    assert built(Outer, {"rate": 2}, hidden=1, width=9) == Outer(rate=2.0, hidden=1, inner=Inner(width=9))


def test_an_error_names_the_field_in_a_library_and_the_flag_on_a_command_line() -> None:
    with pytest.raises(FieldError, match=r"^width must be >= 1, got 0: 1 is the least; see also out_dir$"):
        Inner(width=0)
    with pytest.raises(ValueError, match="width must be"):
        Inner(width=0)
    error = run("--width", "0")[2]
    assert isinstance(error, UserError)
    assert str(error) == "--width must be >= 1, got 0: 1 is the least; see also --out-dir"
    said = made.with_flags("the `word` of /a/out_dir and out_dir.txt, width, `gpa`, out_dir: lower out_dir.")  # type: ignore[attr-defined]
    assert said == "the --word of /a/out_dir and out_dir.txt, width, `gpa`, --out-dir: lower --out-dir."


def test_pair_says_its_flags() -> None:
    done = gpa("pair", "nowhere", "--min-gap", -1)
    assert done.stderr == "error: --min-gap must be finite and >= 0, got -1.0: 0 turns it off\n"


# Command, and the settings that its options are made of.
SETTINGS: dict[str, type] = {"pair": PairSettings}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_field_is_an_option_and_has_a_help(name: str) -> None:
    command: click.Command = import_module(COMMANDS[name][0]).command
    options = {one.name: one for one in command.params if isinstance(one, click.Option)}
    for one, _ in settings_of(SETTINGS[name]):
        assert options[one.name].help
        assert options[one.name].opts[0].startswith("--")


def test_every_rule_of_pairs_is_an_option_with_a_remedy_and_a_measure() -> None:
    assert set(names_of(PairRules)) == {one.name for one in dataclasses.fields(PairRules)}
    for bound in (*OF_CANDIDATES, *OF_PAIRS):
        assert bound.measure in TABLES["scores"].names
        assert bound.field in REMEDIES[bound.rule]
