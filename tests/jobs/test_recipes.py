"""Every recipe that comes with gpa fits every preset, changes what it says, and the demo is one of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jobs.data.score import score_settings
from jobs.main import named_command
from jobs.settings.from_dataclass import built, names_of
from jobs.settings.presets import (
    BASELINES,
    SECTIONS,
    about,
    load_preset,
    load_recipe,
    preset_names,
    recipe_names,
)
from jobs.world import demo
from storage.errors import UserError
from storage.mining.rules import PairSettings
from trainer.config import TrainConfig


def parsed(name: str, *words: str) -> dict[str, Any]:
    """The options of a command as its function receives them."""
    command = named_command(name)
    with command.make_context(name, ["run", *words]) as ctx:
        return dict(ctx.params)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", recipe_names())
def test_the_settings_accept_every_recipe_of_every_preset(name: str, preset: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, preset)
    score, pair, train = (recipe.sections[section] for section in SECTIONS)
    settings = score_settings(score, set(recipe.changes.get("score", {})))
    assert settings.reward.reward == pair["reward"], "pairs are made by the reward that was scored"
    assert set(pair) <= set(names_of(PairSettings))
    assert built(PairSettings, pair).rules.reward == pair["reward"]
    TrainConfig(
        model_dir=tmp_path, revision="r", pairs_dir=tmp_path, out_dir=tmp_path,
        **{key: value for key, value in train.items() if key not in {"name", "sample_prompts"}},
    )  # fmt: skip
    assert about(name)


def test_the_best_recipe_is_the_preset_and_the_demo_is_it() -> None:
    recipe = load_recipe("best", "world")
    assert recipe.changes == {}
    assert recipe.sections == {section: load_preset("world")[section] for section in SECTIONS}
    for section in SECTIONS:
        # The demo types these commands; without --fast they get no option of a section but how many work.
        assert section in demo._FAST
        by_recipe, plain = parsed(section, "--recipe", "best"), parsed(section)
        assert str(by_recipe) == str(plain)


def test_the_baselines_are_what_their_papers_say() -> None:
    assert set(BASELINES) <= set(recipe_names())
    paper = load_recipe("videogpa", "cogvideox-5b-i2v").sections
    reward = score_settings(paper["score"]).reward.reward_options()
    assert (reward.views, reward.holes, reward.photometric, reward.frames) == ("all", "black", "mse", 10)
    assert (reward.perceptual, reward.perceptual_weight, reward.hole_penalty) == ("lpips-vgg", 1, 0)
    assert (paper["pair"]["strategy"], paper["pair"]["min_gap"], paper["pair"]["max_error"]) == (
        "best-worst",
        0.05,
        0.8,
    )
    assert paper["pair"]["min_motion_ratio"] == 0
    assert math.isinf(paper["pair"]["max_motion_ratio"])
    assert load_recipe("sft", "world").sections["train-dpo"]["objective"] == "sft"
    same = load_recipe("sft", "world").sections["pair"]
    assert same == load_preset("world")["pair"], "the winners of the same pairs"
    epipolar = load_recipe("epipolar-dpo", "world").sections
    assert epipolar["pair"]["strategy"] == load_preset("world")["pair"]["strategy"]


def test_baselines_have_the_budget_of_the_best() -> None:
    budget = ("steps", "batch_size", "grad_accum", "rank", "alpha", "lr", "warmup", "schedule")
    asked_about = {"steps-half": {"steps"}, "steps-double": {"steps"}, "anchor-1-fast": {"lr"}}
    for preset in preset_names():
        best = load_recipe("best", preset).sections["train-dpo"]
        for name in recipe_names():
            train = load_recipe(name, preset).sections["train-dpo"]
            changed = {key for key in budget if train[key] != best[key]}
            assert changed <= asked_about.get(name, set()), (preset, name)


def test_supervised_training_leaves_out_what_a_preset_sets_for_preferences(tmp_path: Path) -> None:
    assert parsed("train-dpo")["winner_weight"] == load_preset("world")["train-dpo"]["winner_weight"] > 0
    assert parsed("train-dpo", "--objective", "sft")["winner_weight"] == 0
    file = written(tmp_path, "mine: {train-dpo: {objective: sft}}")
    assert parsed("train-dpo", "--recipe", f"{file}:mine")["winner_weight"] == 0
    typed = parsed("train-dpo", "--winner-weight", "0.25", "--objective", "sft")
    assert typed["winner_weight"] == 0.25, "refused by the training, not forgotten"


def test_a_command_takes_a_recipe_and_its_options_override_it() -> None:
    assert parsed("train-dpo", "--recipe", "sft")["objective"] == "sft"
    assert parsed("train-dpo", "--recipe=beta-100")["beta"] == 100
    assert parsed("train-dpo", "--recipe", "beta-100", "--beta", "7")["beta"] == 7
    assert parsed("score", "--recipe", "epipolar-dpo")["reward"] == "epipolar"
    world, large = (
        parsed("pair", "--recipe", "videogpa", "--preset", preset) for preset in ("world", "cogvideox-5b")
    )
    assert (world["strategy"], large["strategy"]) == ("best-worst", "best-worst")
    assert world["min_gap"] < large["min_gap"] == 0.05


def test_recipes_of_a_file_extend_each_other(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "one: {extends: sft, pair: {min_gap: 0.1}, presets: {world: {pair: {top_k: 3}}}}\n"
        "two: {extends: one, about: a trial, train-dpo: {steps: 7}, presets: {world: {pair: {top_k: 4}}}}\n",
    )
    two = load_recipe(f"{path}:two", "world")
    assert (two.name, two.about) == ("two", "a trial")
    assert two.changes["pair"] == {"min_gap": 0.1, "top_k": 4}
    assert (two.sections["train-dpo"]["objective"], two.sections["train-dpo"]["steps"]) == ("sft", 7)
    assert "top_k" not in load_recipe(f"{path}:two", "cogvideox-5b").changes["pair"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other: {}", "recipe '.*:mine' does not exist: give FILE:NAME, or one of best, sft"),
        ("mine: {trian: {}}", "recipe mine has 'trian': it may have about, extends"),
        ("mine: {pair: {min_gpa: 1}}", r"recipe option mine: pair\.min_gpa is no option of gpa pair"),
        ("mine: {pair: 3}", "recipe mine must be a mapping of sections to options"),
        ("mine: {presets: {world: 3}}", "recipe mine must be a mapping of sections to options"),
        ("mine: {extends: nothing}", "recipe 'mine' extends 'nothing', which does not exist"),
        ("mine: {extends: mine}", "recipe 'mine' extends 'mine', which extends itself"),
        ("my recipe: {}", "recipe name 'my recipe' must be a letter and up to 47 more"),
        ("- mine", "must map names to recipes, got list"),
        ("mine: {", "recipes cannot be read from .*mine.yaml"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(f"{written(tmp_path, text)}:mine", "world")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipes cannot be read from .*none\.yaml"):
        load_recipe(f"{tmp_path}/none.yaml:mine", "world")
