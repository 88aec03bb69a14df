"""gpa align: rounds of sample, score, pair, train and evaluate, each from the adapter of the last."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobs.align.rounds import (
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
from jobs.settings.presets import preset_of
from jobs.stages import parsed_options, run_stage
from rewards.errors import RewardError
from storage.errors import FieldError, UserError
from storage.mining.rules import BASE

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
    given = (sample_words, score_words, pair_words, train_words, evaluate_words)
    named = [] if preset is None else ["--preset", str(preset)]
    rounds = _Rounds(
        run=run,
        asked=asked,
        preset=str(preset or preset_of(None, run)),
        named=named,
        options={
            name: _checked_options(name, text, [str(run), *named])
            for name, text in zip(_STAGES, given, strict=True)
        },
    )
    if dry_run:
        for line in rounds.planned():
            click.echo(line)
        return
    # The stages say what they do beside the one object of --json.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        done = rounds.run_all(guards)
    _print(rounds, done, guards, as_json)


# What a round decides itself, and what would leave a stage out.
_RESERVED = {
    "sample": {"adapter"},
    "score": set[str](),
    "pair": {"adapter", "out"},
    "train-dpo": {"pairs", "name", "from_adapter", "finish"},
    "evaluate": {"adapters", "name"},
}
_NOT_OF_A_STAGE = {"dry_run", "as_json"}


def _checked_options(name: str, text: str, before: list[str]) -> list[str]:
    """The words of a quoted option, checked as that command checks them before anything runs.

    `before` are the run and what names the preset.
    """
    try:
        words = shlex.split(text)
        if set(words) & {"-h", "--help", "--help-all"}:
            raise ValueError(f"ask gpa {name} --help itself")
    except ValueError as error:
        raise click.UsageError(f"--{name} {text!r}: {error}") from error
    ctx = parsed_options(name, before, text)
    command = ctx.command
    try:
        for one in _RESERVED[name] | _NOT_OF_A_STAGE:
            if ctx.get_parameter_source(one) is ParameterSource.COMMANDLINE:
                flag = next(option.opts[0] for option in command.params if option.name == one)
                raise ValueError(f"{flag} is for gpa align to say: leave it out")
        _require_settings(name, ctx.params)
    except (ValueError, UserError, RewardError) as error:
        said = getattr(command, "with_flags", str)(str(error))
        raise click.UsageError(f"--{name} {text!r}: {said}") from error
    return words


def _require_settings(name: str, params: dict[str, Any]) -> None:
    """Raise what the settings of a command raise for these options."""
    from jobs.data.pair import pair_settings
    from jobs.data.sample import sample_settings
    from jobs.data.score import score_settings
    from trainer.config import TrainConfig

    if name == "sample":
        sample_settings(params)
    elif name == "score":
        score_settings(params)
    elif name == "pair":
        pair_settings(params)
    elif name == "train-dpo":
        here = Path()
        built(TrainConfig, params, model_dir=here, model="any", revision="any", pairs_dir=here, out_dir=here)


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """The commands of rounds in a run; `options` are the words that the user adds to each of them.

    `preset` is the name of the run's preset, `named` what names it where the command line did.
    """

    run: Path
    asked: _Asked
    preset: str
    named: list[str]
    options: dict[str, list[str]]

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
        return {
            name: [*self.named, *first.get(name, []), *self.options[name], *own[name]] for name in _STAGES
        }

    def planned(self) -> list[str]:
        """The commands of all rounds as a user would type them."""
        return [
            f"gpa {name} {shlex.quote(str(self.run))} {shlex.join(words)}".rstrip()
            for number in range(1, self.asked.rounds + 1)
            for name, words in self.commands(number).items()
        ]

    def run_all(self, guards: Guards) -> list[Round]:
        """Do the rounds that are missing, until one does not pay; the figures of all that are known stay."""
        known = {one.number: one for one in read_rounds(self.folder)}
        done: list[Round] = []
        for number in range(1, self.asked.rounds + 1):
            one = known.get(number)
            if one is None or not self._is_whole(one):
                one = self._one(number)
                # Later ones went on from another adapter.
                known = {key: value for key, value in known.items() if key < number} | {number: one}
            elif (one.preset, one.options) != (self.preset, self.options):
                raise UserError(self._other_options(one))
            done.append(one)
            write_rounds(self.folder, list(known.values()), best_of(done, guards))
            if fault_of(one, guards) is not None:
                break
        return done

    def _other_options(self, one: Round) -> str:
        """What is said where a round was made with other options."""
        kept = {"preset": [one.preset], **one.options}
        now = {"preset": [self.preset], **self.options}
        name = next(name for name in now if kept.get(name) != now[name])
        before, after = shlex.join(kept.get(name, [])), shlex.join(now[name])
        return (
            f"round {one.number} in {self.folder} was made with --{name} {before!r}, now it is {after!r}: "
            "give the same options to go on, or another `name`"
        )

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
            preset=self.preset,
            options=self.options,
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

        words = [*self.named, *self.options["sample"]]
        ctx = named_command("sample").make_context("sample", [str(self.run), *words])
        return int(ctx.params["seed"])


def _print(rounds: _Rounds, done: list[Round], guards: Guards, as_json: bool) -> None:
    best = best_of(done, guards)
    adapter = str(rounds.adapter(best)) if best else None
    fault = fault_of(done[-1], guards)
    if as_json:
        values = {"rounds": [asdict(one) for one in done], "best": best, "adapter": adapter, "stopped": fault}
        click.echo(json.dumps(values | {"directory": str(rounds.folder)}, sort_keys=True))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=200, highlight=False)
    title = "\nRounds, on the same prompts and seeds: shares of the base, or figures (the base's)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    lines = table_of(done, guards)
    for head in lines[0]:
        table.add_column(head, justify="left" if head in ("round", "") else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line.values())
    console.print(table)
    if fault is not None:
        console.print(f"stopped after round {done[-1].number}: {fault}", soft_wrap=True)
    if adapter is None:
        console.print("result: the base model; no round paid", soft_wrap=True)
    else:
        console.print(f"result: round {best}, {adapter}", soft_wrap=True)
        console.print(
            "Rounds were chosen on these prompts: report the result on others "
            f"(gpa evaluate {rounds.run} --adapter {adapter} --split test --name test)",
            soft_wrap=True,
        )
    console.print(f"figures: {rounds.folder / 'rounds.json'}", soft_wrap=True)
