"""Pairs of an ablation: whole or made again, shared where recipes choose alike, and a failure said once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from jobs.ablate import selections as module
from jobs.ablate.commands import Commands
from jobs.ablate.selections import Selections
from jobs.ablate.trainings import Selection, Training
from jobs.settings.presets import find_preset, load_recipe
from storage.errors import UserError
from storage.run import Run


class Recorded(Commands):
    """Records commands; `stops` is raised by the next gpa pair, after its first shard."""

    given: ClassVar[list[str]] = []
    stops: ClassVar[list[BaseException]] = []

    def require(self, name: str, *own: str) -> None:
        self.given.append(name)
        if name == "pair":
            directory = Path(own[own.index("--out") + 1])
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "first.parquet").touch()
            if self.stops:
                raise self.stops.pop()


def training(name: str, seed: int = 0) -> Training:
    return Training(recipe=load_recipe(name, "world"), named=name, seed=seed)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    def choose(_run: Run, _commands: Commands, asked: Training, version: str) -> Selection:
        # Two recipes choose alike when their sections for pairing are the same.
        gap = asked.recipe.sections["pair"]["min_gap"]
        return Selection(directory=f"ablate/pairs/x-{gap}", reward="x", reward_version=version, rules={})

    class Counted(list[int]):
        def __init__(self, _directory: Path, _split: str, limit: int | None) -> None:
            super().__init__(range(5 if limit is None else min(5, limit)))

    monkeypatch.setattr(module, "scoring_seconds", lambda *_: ("v1", 0.0))
    monkeypatch.setattr(module, "selection_of", choose)
    monkeypatch.setattr("storage.pairs.dataset.PairDataset", Counted)
    monkeypatch.setattr(Recorded, "given", [])
    monkeypatch.setattr(Recorded, "stops", [])
    return Recorded(run=tmp_path / "run", preset=find_preset("world"))


def fresh(commands: Recorded) -> Selections:
    return Selections(run=Run.create_or_open(commands.run), commands=commands)


def test_half_written_pairs_are_written_again_and_whole_ones_never(commands: Recorded) -> None:
    commands.stops.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fresh(commands).of(training("best"))
    selection, count = fresh(commands).of(training("best"))
    assert (commands.given, count) == (["pair", "pair"], 5)
    again = fresh(commands)
    assert again.of(training("best", 1)) == again.of(training("sft")) == (selection, 5)
    assert commands.given == ["pair", "pair"], "another seed and a recipe that chooses alike share them"


def test_what_a_recipe_fails_at_it_fails_at_for_every_seed(commands: Recorded) -> None:
    commands.stops.append(UserError("no pair"))
    found = fresh(commands)
    for seed in (0, 1):
        with pytest.raises(UserError, match="no pair"):
            found.of(training("gap-double", seed))
    assert commands.given == ["pair"]
    assert found.fewest([training("gap-double"), training("best"), training("gap-0")]) == 5


def test_the_fewest_pairs_count_a_recipes_own_bound(commands: Recorded, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        commands.__class__, "params", lambda *words: {"max_pairs": 3 if "pairs-200" in words else None}
    )
    assert fresh(commands).fewest([training("best"), training("pairs-200")]) == 3
