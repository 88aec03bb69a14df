"""What users rely on is said once more: every --help, and every preset as it is resolved.

After a change that is meant, write them again: `python -m tests.jobs.test_snapshots`, and read the diff.
"""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from jobs.main import cli
from jobs.settings.presets import load_preset, preset_names

FOLDER = Path(__file__).parent / "snapshots"


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command and of its own commands."""
    found = []
    with click.Context(group) as context:
        for name in group.list_commands(context):
            found.append((*words, name))
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                found += commands(command, (*words, name))
    return found


def help_of(words: tuple[str, ...], flag: str = "--help") -> str:
    done = CliRunner().invoke(cli, [*words, flag], terminal_width=100, prog_name="gpa")
    assert done.exit_code == 0, done.stderr
    return done.stdout


def resolved(preset: str) -> str:
    return yaml.safe_dump(load_preset(preset), sort_keys=True)


# Commands whose --help does not show everything.
WITH_MORE = [words for words in commands() if "--help-all" in help_of(words)]


def kept() -> dict[str, str]:
    """Every snapshot by its file name."""
    helps = {f"help-{'-'.join(words) or 'gpa'}.txt": help_of(words) for words in [(), *commands()]}
    helps |= {f"help-all-{words[0]}.txt": help_of(words, "--help-all") for words in WITH_MORE}
    return helps | {f"preset-{name}.yaml": resolved(name) for name in preset_names()}


@pytest.mark.parametrize("words", [(), *commands()], ids="-".join)
def test_a_help_is_as_it_was_last_read(words: tuple[str, ...]) -> None:
    assert help_of(words) == (FOLDER / f"help-{'-'.join(words) or 'gpa'}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", WITH_MORE, ids="-".join)
def test_a_help_of_all_options_is_as_it_was_last_read(words: tuple[str, ...]) -> None:
    shown = help_of(words, "--help-all")
    assert shown == (FOLDER / f"help-all-{words[0]}.txt").read_text(encoding="utf-8")
    with click.Context(cli) as context:
        command = cli.get_command(context, words[0])
    assert command is not None
    for option in command.params:
        assert not isinstance(option, click.Option) or option.opts[0] in shown


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_resolves_to_what_it_did(name: str) -> None:
    assert resolved(name) == (FOLDER / f"preset-{name}.yaml").read_text(encoding="utf-8")


def test_there_is_no_snapshot_of_what_is_gone() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(kept())


if __name__ == "__main__":
    for path in FOLDER.iterdir():
        path.unlink()
    for name, text in kept().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
