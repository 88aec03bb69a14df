"""Sweeps: which recipes --vary makes, what it refuses before any work, and that they are recipes as any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from jobs.ablate.commands import Commands
from jobs.ablate.selections import selection_of
from jobs.ablate.trainings import Training
from jobs.ablate.vary import sweep_of, write_sweep
from jobs.main import cli
from jobs.settings.presets import find_preset, load_recipe
from storage.run import Run
from storage.tables.shards import write_shard
from tests.storage.builders import candidate, score

PRESET = find_preset("world")
TWO = ["train-dpo.beta=100,500", "pair.min_gap=.03,.06"]


def test_every_combination_is_a_recipe_named_by_what_varies(tmp_path: Path) -> None:
    sweep = sweep_of(TWO, PRESET, 4)
    assert list(sweep) == ["beta-100.gap-0.03", "beta-100.gap-0.06", "beta-500.gap-0.03", "beta-500.gap-0.06"]
    file = tmp_path / "vary.yaml"
    write_sweep(file, sweep)
    recipe = load_recipe(f"{file}:beta-500.gap-0.03", PRESET)
    assert recipe.changes == {"train-dpo": {"beta": 500.0}, "pair": {"min_gap": 0.03}}
    expected = PRESET.sections["train-dpo"] | {"beta": 500.0}
    assert recipe.sections["train-dpo"] == expected
    # Those of earlier sweeps stay, so that their trainings can be shown.
    write_sweep(file, sweep_of(["train-dpo.lr=1e-4"], PRESET, 4))
    assert list(yaml.safe_load(file.read_text())) == [*sweep, "lr-0.0001"]


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["pair.max_motion_ratio=1.5,inf"], ["max-motion-ratio-1.5", "max-motion-ratio-inf"]),
        (["pair.min_motion_ratio=.5"], ["motion-ratio-0.5"]),
        # score and pair have one of that name each.
        (["score.reward=random", "pair.reward=random"], ["score-reward-random.pair-reward-random"]),
        (["pair.strategy=all,best-worst,all"], ["strategy-all", "strategy-best-worst"]),
        (["train-dpo.max_pairs=200"], ["max-pairs-200"]),
    ],
)
def test_names_tell_apart_what_options_tell_apart(texts: list[str], names: list[str]) -> None:
    assert list(sweep_of(texts, PRESET, 9)) == names


def test_a_long_name_keeps_what_tells_it_apart() -> None:
    many = ["winner_weight=.125", "first_frame_weight=.25", "winner_anchor=.5", "lr=.000123456,.000123457"]
    names = list(sweep_of([f"train-dpo.{one}" for one in many], PRESET, 2))
    assert len(set(names)) == 2
    assert all(len(name) <= 48 and name.startswith("winner-weight-0.125.first") for name in names)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["beta=1"], "--vary must be SECTION.OPTION=VALUE,..., got 'beta=1'"),
        (["train_dpo.beta=1"], "has no section of recipes: did you mean train-dpo? they are score, pair"),
        (["pair.min_gp=1"], "--vary pair.min_gp is no option of gpa pair: did you mean min_gap?"),
        (["train-dpo.beta=1,x"], "--vary train-dpo.beta got 'x': Invalid value"),
        (["train-dpo.seed=0,1"], "is what gpa ablate gives every training itself"),
        (["train-dpo.steps=1.5"], "--vary train-dpo.steps got '1.5': Invalid value"),
        (["pair.strategy=al"], "'al' is not one of 'best-worst', 'all', 'top-k'"),
        (["train-dpo.beta=1", "train-dpo.beta=2"], "--vary names train-dpo.beta twice"),
        # What single values may be, and what they may be beside others.
        (["train-dpo.beta=5,-1"], "--vary, beta--1: beta must be a finite number > 0, got -1.0"),
        (["train-dpo.objective=sft"], "--vary, objective-sft: winner_weight must be 0 with objective sft"),
        (["score.frames=1"], "--vary, frames-1: "),
        (["pair.min_gap=-1"], "--vary, gap--1: "),
        (["train-dpo.rank=1,2,3", *TWO], "--vary makes 12 combinations, at most 9 are taken"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(texts: list[str], message: str, tmp_path: Path) -> None:
    words = [word for text in texts for word in ("--vary", text)]
    run = tmp_path / "run"
    done = CliRunner().invoke(cli, ["ablate", str(run), *words, "--max-combinations", "9"])
    assert done.exit_code == 1, done.output
    assert message in done.stderr
    assert not run.exists()


def test_other_faults_too_are_found_before_anything_lies_in_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--vary", TWO[0], "--evaluate", "--judge nobody"]
    done = CliRunner().invoke(cli, ["ablate", str(run), *words])
    assert done.exit_code == 1
    assert "2 combinations of train-dpo.beta (2), 2 trainings" in done.stderr
    assert "judge 'nobody' does not exist" in done.stderr
    assert not run.exists()


def test_it_is_foretold_without_a_run(tmp_path: Path) -> None:
    small = ["--num-prompts", "2", "--seeds", "1", "--evaluate", "--judge none", "--training-seeds", "3"]
    words = [
        "ablate",
        str(tmp_path / "run"),
        "--vary",
        TWO[0],
        "--vary",
        TWO[1],
        *small,
        "--dry-run",
        "--json",
    ]
    told = CliRunner().invoke(cli, words)
    assert told.exit_code == 0, told.output
    assert "4 combinations of train-dpo.beta (2) x pair.min_gap (2), 12 trainings" in told.stderr
    assert json.loads(told.stdout)["sample"]["missing"] == 960
    assert not (tmp_path / "run").exists()


def test_recipes_that_differ_in_training_alone_share_their_pairs(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    write_shard(run.shard_dir("candidates"), "candidates", [candidate()])
    write_shard(run.shard_dir("scores"), "scores", [score(reward="combined")])
    file = tmp_path / "vary.yaml"
    sweep = sweep_of(TWO, PRESET, 4)
    write_sweep(file, sweep)
    commands = Commands(run=run.path, preset=PRESET)
    places = {
        name: selection_of(
            run,
            commands,
            Training(recipe=load_recipe(f"{file}:{name}", PRESET), named=f"{file}:{name}", seed=0),
            "v1",
        ).directory
        for name in sweep
    }
    assert places["beta-100.gap-0.03"] == places["beta-500.gap-0.03"]
    assert places["beta-100.gap-0.06"] == places["beta-500.gap-0.06"]
    assert len(set(places.values())) == 2


def test_a_recipe_with_a_dot_trains_in_a_folder_without(tmp_path: Path) -> None:
    file = tmp_path / "vary.yaml"
    write_sweep(file, sweep_of(["pair.min_gap=.03"], PRESET, 1))
    named = f"{file}:gap-0.03"
    training = Training(recipe=load_recipe(named, PRESET), named=named, seed=2)
    assert (training.name, training.label) == ("gap-0_03-2", "gap-0.03/2")
