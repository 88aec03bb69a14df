"""gpa align: rounds of sample, score, pair, train and evaluate, each from the adapter of the last."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.align.rounds import (
    BASE,
    Guards,
    Round,
    best_of,
    fault_of,
    figures,
    label,
    read_rounds,
    table_of,
    write_rounds,
)
from jobs.settings.command import Command, preset_option
from jobs.settings.from_dataclass import built, options_of
from jobs.settings.options import dry_run_option, json_option, run_argument
from jobs.stages import run_stage
from storage.errors import FieldError, UserError

if TYPE_CHECKING:
    from jobs.settings.presets import Preset

_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")
_STAGES = ("sample", "score", "pair", "train-dpo", "evaluate")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """How many rounds, under which name."""

    rounds: int = field(
        default=2, metadata={"help": "At most N rounds.", "metavar": "N", "group": "Rounds", "common": True}
    )
    name: str = field(
        default="align",
        metadata={
            "help": "The trainings go to RUN/train/NAME-1 and so on, the evaluation to RUN/eval/NAME.",
            "metavar": "NAME",
            "group": "Rounds",
            "common": True,
        },
    )

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise FieldError("rounds", "at least 1", self.rounds)
        if not _NAME.fullmatch(self.name):
            raise FieldError(
                "name", "1-48 letters, digits, - or _", self.name, "it names folders, choose another"
            )


@click.command("align", cls=Command)
@run_argument
@preset_option
@options_of(_Asked)
@options_of(Guards)
@click.option("--sample", "sample_words", default="", metavar="OPTIONS", help="Those of gpa sample, quoted.")
@click.option("--score", "score_words", default="", metavar="OPTIONS", help="Those of gpa score, quoted.")
@click.option("--pair", "pair_words", default="", metavar="OPTIONS", help="Those of gpa pair, quoted.")
@click.option(
    "--train-dpo", "train_words", default="", metavar="OPTIONS", help="Those of gpa train-dpo, quoted."
)
@click.option(
    "--evaluate", "evaluate_words", default="", metavar="OPTIONS", help="Those of gpa evaluate, quoted."
)
@dry_run_option
@json_option
def command(
    run: Path,
    preset: Preset | None,
    sample_words: str,
    score_words: str,
    pair_words: str,
    train_words: str,
    evaluate_words: str,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Align RUN in rounds: sample from the aligned model, score, pair, train on from its adapter, evaluate.

    Every stage is a command that is printed and could be typed. The pairs of a round are of candidates of the
    adapter it began with, with other seeds; the preference is measured against that adapter. All rounds are
    evaluated on the same prompts and seeds, of split val unless --evaluate says otherwise: what chooses
    between rounds is no test. It stops when a round does not lower the judge's error, or when too little of
    the base's motion or sharpness is left; the round before is then the result. Resumable.
    """
    asked, guards = built(_Asked, chosen), built(Guards, chosen)
    given = dict(
        zip(_STAGES, (sample_words, score_words, pair_words, train_words, evaluate_words), strict=True)
    )
    words = {name: _split(name, text) for name, text in given.items()}
    if preset is not None:
        words = {name: ["--preset", str(preset), *more] for name, more in words.items()}
    rounds = _Rounds(run=run, asked=asked, words=words)
    if dry_run:
        for line in rounds.planned():
            click.echo(line)
        return
    # The stages say what they do beside the one object of --json.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        done = rounds.run_all(guards)
    best = best_of(done, guards)
    write_rounds(rounds.folder, done, best)
    _print(rounds, done, guards, best, as_json)


def _split(name: str, text: str) -> list[str]:
    """The words of a quoted option, checked as that command checks them before anything runs."""
    from jobs.main import named_command

    try:
        words = shlex.split(text)
        named_command(name).make_context(name, ["RUN", *words])
    except (click.UsageError, ValueError) as error:
        said = error.format_message() if isinstance(error, click.UsageError) else str(error)
        raise click.UsageError(f"--{name} {text!r}: {said}") from error
    return words


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """The commands of rounds in a run; `words` are those that the user adds to each of them."""

    run: Path
    asked: _Asked
    words: dict[str, list[str]]

    @property
    def folder(self) -> Path:
        """Where the pairs and the figures of the rounds lie."""
        return self.run / "align" / self.asked.name

    def adapter(self, number: int) -> Path:
        """The adapter that a round makes."""
        return self.run / "train" / f"{self.asked.name}-{number}" / "adapter"

    def commands(self, number: int) -> dict[str, list[str]]:
        """The stages of a round by name, as words behind `gpa NAME RUN`."""
        before = self.adapter(number - 1)
        pairs = str(self.folder / f"pairs-{number}")
        adapters = [f"{label(one)}={self.adapter(one)}" for one in range(1, number + 1)]
        seed = ["--seed", str(self._seed() + number - 1)] if number > 1 else []
        own = {
            "sample": [*seed, *(["--adapter", str(before)] if number > 1 else [])],
            "score": [],
            "pair": ["--adapter", str(before) if number > 1 else BASE, "--out", pairs],
            "train-dpo": [
                *("--pairs", pairs, "--name", f"{self.asked.name}-{number}"),
                *(["--from-adapter", str(before)] if number > 1 else []),
            ],
            "evaluate": [
                *("--name", self.asked.name),
                *(word for adapter in adapters for word in ("--adapter", adapter)),
            ],
        }
        # What chooses between rounds is no test, unless somebody says so.
        first = {"evaluate": ["--split", "val"]}
        return {name: [*first.get(name, []), *self.words[name], *own[name]] for name in _STAGES}

    def planned(self) -> list[str]:
        """The commands of all rounds as a user would type them."""
        return [
            f"gpa {name} {shlex.quote(str(self.run))} {shlex.join(words)}".rstrip()
            for number in range(1, self.asked.rounds + 1)
            for name, words in self.commands(number).items()
        ]

    def run_all(self, guards: Guards) -> list[Round]:
        """Do the rounds that are missing, until one does not pay."""
        known = {one.number: one for one in read_rounds(self.folder)}
        done: list[Round] = []
        for number in range(1, self.asked.rounds + 1):
            one = known.get(number)
            if one is None or not self._is_whole(one):
                one = self._one(number)
            elif one.commands != self.commands(number):
                raise UserError(_other_words(one, self.commands(number), self.folder))
            done.append(one)
            write_rounds(self.folder, done, best_of(done, guards))
            if fault_of(one, guards) is not None:
                break
        return done

    def _one(self, number: int) -> Round:
        from pipeline.models import adapter_id
        from storage.pairs.index import PairIndex
        from storage.run import Run

        commands = self.commands(number)
        started = time.perf_counter()
        for name, words in commands.items():
            run_stage([name, str(self.run), *words])
        clips = Run.open(self.run / "eval" / self.asked.name).rows("clips").to_pylist()
        measures, shares = figures(clips, number)
        note = json.loads((self.adapter(number) / "adapter.json").read_text(encoding="utf-8"))
        return Round(
            number=number,
            commands=commands,
            adapter=str(self.adapter(number)),
            adapter_id=adapter_id(self.adapter(number)),
            pairs=PairIndex(self.folder / f"pairs-{number}").table.num_rows,
            steps=note["training"]["total_steps"],
            seconds=time.perf_counter() - started,
            measures=measures,
            shares=shares,
        )

    def _is_whole(self, one: Round) -> bool:
        """Whether the adapter that a round made is still there."""
        from pipeline.models import adapter_id

        try:
            return adapter_id(self.adapter(one.number)) == one.adapter_id
        except UserError:
            return False

    def _seed(self) -> int:
        """The seed of the first round's candidates."""
        from jobs.main import named_command

        ctx = named_command("sample").make_context("sample", [str(self.run), *self.words["sample"]])
        return int(ctx.params["seed"])


def _other_words(one: Round, now: dict[str, list[str]], folder: Path) -> str:
    name = next(name for name in _STAGES if one.commands.get(name) != now[name])
    return (
        f"round {one.number} in {folder} was made by `gpa {name}` with {shlex.join(one.commands[name])!r}, "
        f"now it would be {shlex.join(now[name])!r}: give the same options to go on, or another `name`"
    )


def _print(rounds: _Rounds, done: list[Round], guards: Guards, best: int, as_json: bool) -> None:
    adapter = str(rounds.adapter(best)) if best else None
    if as_json:
        values = {"rounds": table_of(done, guards), "best": best, "adapter": adapter}
        click.echo(json.dumps(values | {"directory": str(rounds.folder)}, sort_keys=True))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=170, highlight=False)
    table = Table(title="\nRounds, on the same prompts and seeds", title_justify="left", box=box.SIMPLE_HEAD)
    lines = table_of(done, guards)
    for head in lines[0]:
        table.add_column(head, justify="left" if head in ("round", "") else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line.values())
    console.print(table)
    last = done[-1]
    fault = fault_of(last, guards)
    if fault is not None:
        console.print(f"stopped after round {last.number}: {fault}", soft_wrap=True)
    if adapter is None:
        console.print("result: the base model; no round paid", soft_wrap=True)
    else:
        console.print(f"result: round {best}, {adapter}", soft_wrap=True)
    console.print(
        "Rounds were chosen on these prompts: report the result on others "
        f"(gpa evaluate {rounds.run} --adapter {adapter or 'DIR'} --split test --name test)",
        soft_wrap=True,
    )
    console.print(f"figures: {rounds.folder / 'rounds.json'}", soft_wrap=True)
