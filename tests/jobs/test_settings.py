"""Options follow from the fields of settings dataclasses: flags, types, defaults, presets, and errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import reload
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

import jobs.data.score
from jobs.data.score import RewardOptions
from jobs.main import named_command
from jobs.settings.command import Command
from jobs.settings.from_dataclass import built, names_of, options_of, settings_of, union_of
from jobs.settings.options import recordable
from jobs.training.command import Where
from pipeline.sampling.settings import SampleSettings
from pipeline.scoring.settings import ScoreSettings
from rewards import table
from rewards.table import REWARDS, RewardSpec
from storage.errors import FieldError, UserError
from storage.mining.rules import OF_CANDIDATES, OF_PAIRS, REMEDIES, PairRules, PairSettings
from storage.tables.schemas import TABLES
from tests.jobs.test_cli import gpa
from trainer.config import TrainConfig


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
SETTINGS: dict[str, tuple[type, ...]] = {
    "sample": (SampleSettings,),
    "pair": (PairSettings,),
    "score": (ScoreSettings, RewardOptions),
    "train-dpo": (Where, TrainConfig),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_field_is_an_option_and_has_a_help(name: str) -> None:
    command: click.Command = named_command(name)
    options = {one.name: one for one in command.params if isinstance(one, click.Option)}
    for cls in SETTINGS[name]:
        for one, _ in settings_of(cls):
            assert options[one.name].help
            assert options[one.name].opts[0].startswith("--")


def test_every_rule_of_pairs_is_an_option_with_a_remedy_and_a_measure() -> None:
    assert set(names_of(PairRules)) == {one.name for one in dataclasses.fields(PairRules)}
    for bound in (*OF_CANDIDATES, *OF_PAIRS):
        assert bound.measure in TABLES["scores"].names
        assert bound.field in REMEDIES[bound.rule]


NEW_REWARD = """
from dataclasses import dataclass, field
from rewards.options import ReprojectionOptions, versioned

@dataclass(frozen=True, kw_only=True)
class GlossOptions:
    shine: float = field(default=0.5, metadata={"help": "How much shine counts.", "metavar": "X"})
    lamp: str = field(default="sun", metadata={"help": "Which lamp.", "later": True})

    def __post_init__(self):
        if self.shine < 0:
            raise ValueError(f"shine must be >= 0, got {self.shine}")

class GlossReward:
    def __init__(self, *, geometry, options, version, perceptual_weights=None, device="cpu"):
        from rewards.scoring import options_version
        self.version = options_version(version, versioned(options), None)
"""


@pytest.fixture
def gloss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[click.Command]:
    """The command gpa score with a reward that is one file and one line."""
    (tmp_path / "gloss_reward.py").write_text(NEW_REWARD)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = RewardSpec(
        version="1",
        reward="gloss_reward:GlossReward",
        options_class="gloss_reward:GlossOptions",
        needs_geometry=False,
    )
    monkeypatch.setitem(table._OWN, "gloss", spec)
    yield reload(jobs.data.score).command
    monkeypatch.undo()
    reload(jobs.data.score)


def test_a_reward_with_options_is_one_file_and_one_line(gloss: click.Command, tmp_path: Path) -> None:
    shown = " ".join(CliRunner().invoke(gloss, ["--help-all"]).output.split())
    assert "--shine X How much shine counts. [default: 0.5]" in shown
    preset = tmp_path / "mine.yaml"
    preset.write_text("extends: world\nscore: {reward: gloss, shine: 2}")
    with gloss.make_context("score", ["run", "--preset", str(preset), "--frames", "4"]) as ctx:
        chosen = dict(ctx.params)
    with gloss.make_context("score", ["run", "--reward", "gloss"]) as ctx:
        plain = dict(ctx.params)
    assert recordable(chosen)["shine"] == 2
    settings, default = (jobs.data.score.score_settings(one) for one in (chosen, plain))
    assert settings.reward.options == {"shine": 2}
    assert settings.reward.describe()[0] != default.reward.describe()[0], "part of the version"
    assert settings.reward.load("cpu").version == settings.reward.describe()[0]
    later = jobs.data.score.score_settings(plain | {"lamp": "sun"}).reward
    assert later.describe() == default.reward.describe(), "an option that came later changes no old score"
    assert jobs.data.score.score_settings(plain | {"lamp": "moon"}).reward.describe() != later.describe()
    done = CliRunner().invoke(gloss, [str(tmp_path), "--reward", "gloss", "--shine", "-1"])
    assert str(done.exception) == "reward 'gloss': --shine must be >= 0, got -1.0"


def test_options_of_rewards_may_not_contradict_each_other() -> None:
    @dataclass(frozen=True)
    class Other:
        width: float = field(default=1.0, metadata={"help": "Across."})

    with pytest.raises(TypeError, match="option width is of different types for one, other"):
        union_of({"one": Inner, "other": Other})
    with pytest.raises(TypeError, match="the command has an option width of its own: one must rename it"):
        union_of({"one": Inner}, apart_from=["width"])


def test_no_reward_field_is_hidden_by_mistake() -> None:
    hidden = {
        (name, one.name)
        for name, spec in REWARDS.items()
        for one in dataclasses.fields(spec.options)
        if one.name not in names_of(RewardOptions)
    }
    sift = ("ratio", "mutual", "min_matches", "min_share", "min_displacement", "threshold", "truncate")
    assert hidden == {("combined", "min_image_motion"), *(("epipolar", name) for name in sift)}
