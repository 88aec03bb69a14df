"""Names that are not UTF-8 or too long, and consoles that cannot show a text, cost a line, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from jobs.main import COMMANDS, cli, named_command
from pipeline.models import resolve_model
from storage.errors import UserError
from storage.run import Run
from tests.jobs.test_cli import gpa

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests" / "fixtures" / "run_at_2_12_1" / "run"
# What stands behind the run where a command needs more.
MORE = {"import": ["source"], "query": ["SELECT 1"], "export": ["exported"]}
OF_A_RUN = [
    name
    for name in COMMANDS
    if any(isinstance(one, click.Argument) and one.name == "run" for one in named_command(name).params)
    and name != "doctor"
]


@pytest.fixture
def not_utf8(tmp_path: Path) -> Path:
    return Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))


def test_most_commands_are_of_a_run() -> None:
    assert {"sample", "import", "score", "pair", "run", "train-dpo", "evaluate", "report"} <= set(OF_A_RUN)


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_run_whose_name_is_not_utf_8_is_refused_before_it_is_made(name: str, not_utf8: Path) -> None:
    result = gpa(name, not_utf8, *MORE.get(name, []))
    assert result.exit_code == 1
    assert result.stderr.endswith(
        r"r\udcff is not UTF-8: rename it, or the folder above it that is not" + "\n"
    )
    assert result.stderr.count("\n") == 1
    assert not not_utf8.exists()


def test_a_library_finds_out_the_same(not_utf8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (Run.create_or_open, Run.open):
        with pytest.raises(UserError, match=r"the name of the run .*r\\udcff is not UTF-8: rename it"):
            make(not_utf8)
    # A folder above it is part of its name, in which a worker finds it.
    not_utf8.mkdir()
    monkeypatch.chdir(not_utf8)
    with pytest.raises(UserError, match="the name of the run inside is not UTF-8"):
        Run.create_or_open("inside")


def test_a_model_whose_name_is_not_utf_8_is_refused(not_utf8: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, not_utf8)
    with pytest.raises(UserError, match=r"the name of the model .*r\\udcff is not UTF-8"):
        resolve_model(str(not_utf8))


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "{}"],
        ["score", "{}"],
        ["import", "new", "{}"],
        ["sample", "new", "--prompts", "{}"],
        ["sample", "new", "--model", "{}", "--workers", "0"],
        ["sample", "new", "--adapter", "{}", "--workers", "0"],
        ["sample", "new", "--preset", "{}"],
        ["export", "old", "{}"],
        ["pair", "old", "--out", "{}"],
    ],
)
def test_a_name_that_is_too_long_is_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RUN, "old")
    result = gpa(*(word.format("n" * 256) for word in words))
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert "n" * 256 in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["new\nline", "n" * 255, "a'b\"c;d", "größe 日本"])
def test_other_names_are_names(name: str, tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / name)
    result = gpa("query", tmp_path / name, "--csv", "SELECT count(*) AS n FROM candidates")
    assert (result.exit_code, result.stdout.split()) == (0, ["n", "9"])
    assert gpa("score", tmp_path / name, "--workers", 0, "--json").exit_code == 0
    exported = gpa("export", tmp_path / name, tmp_path / f"{name[:200]} exported")
    assert exported.exit_code == 0, exported.stderr


SNOW = "ä日本☃"


def said(environment: dict[str, str], *words: object) -> bytes:
    """What a command prints, as bytes, in this environment alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.main", *map(str, words)],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", rb"\xe4\u65e5\u672c\u2603"), ("latin-1", b"\xe4" + rb"\u65e5\u672c\u2603")],
)
@pytest.mark.parametrize("table", [True, False])
def test_a_console_of_another_encoding_shows_what_it_can(encoding: str, shown: bytes, table: bool) -> None:
    words = ["query", RUN, f"SELECT '{SNOW}' AS x", *([] if table else ["--csv"])]
    assert shown in said({"PYTHONIOENCODING": encoding}, *words)


def test_a_locale_that_knows_no_utf_8_changes_no_name(tmp_path: Path) -> None:
    place = shutil.copytree(RUN, tmp_path / f"run {SNOW}")
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert SNOW.encode() in said(bare, "query", place, f"SELECT '{SNOW}' AS x", "--csv")


def test_a_failing_place_is_told_and_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    def fail(error: OSError) -> None:
        def broken(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(named_command("query"), "callback", broken)

    fail(OSError(116, "Stale file handle", "/far/away"))
    result = gpa("query", RUN, "SELECT 1")
    assert result.exit_code == 1
    assert result.stderr == "error: /far/away cannot be used (Stale file handle): check the path\n"
    fail(OSError("no place"))
    with pytest.raises(OSError, match="no place"):
        CliRunner().invoke(cli, ["query", str(RUN), "SELECT 1"], catch_exceptions=False)
