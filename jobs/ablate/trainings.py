"""The trainings of an ablation: a recipe with a seed, where it lies, what is kept of it, what comes of all.

RUN/ablate/pairs/<reward>-<hash>/     the pairs of one selection; <reward>-<hash>.json once they are whole
RUN/ablate/trainings/<name>.json      what a training is, written before it begins
RUN/ablate/logs/<name>.txt            what it printed last, when it ran beside others
RUN/train/<recipe>-<seed>/            the training itself
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.ablate.commands import Commands
from jobs.settings.layers import NOT_SETTINGS
from jobs.settings.presets import Recipe
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.run import Run
from trainer.config import FREE_ON_RESUME

if TYPE_CHECKING:
    from pipeline.evaluation.tables import Evaluation


FOLDER = "ablate"
_ADAPTER = Path("adapter") / "pytorch_lora_weights.safetensors"
# What says where a training lies and how it is watched or interrupted, not what it computes.
_ASIDE = NOT_SETTINGS | FREE_ON_RESUME | {"pairs", "name", "sample_prompts", "push_to_hub", "public"}
# What ends a training decides its adapter.
_ASIDE -= {"patience"}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A recipe with a seed; `named` is the recipe as the user wrote it, perhaps FILE:NAME."""

    recipe: Recipe
    named: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder in RUN/train."""
        return _folder(self.recipe.name, self.seed)

    @property
    def label(self) -> str:
        """Its name in the evaluation, a training of the group that its recipe is."""
        return f"{self.recipe.name}/{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The pairs of a recipe: where they lie, relative to the run, and by which rules they were chosen."""

    directory: str
    reward: str
    reward_version: str
    rules: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a training: enough for a row of the results, and to know it again.

    `named` is the recipe as the user wrote it, `options` are all that decide the numbers, `pairs` how many
    there were to train on.
    """

    recipe: str
    named: str
    about: str
    seed: int
    preset: str
    changes: dict[str, Any]
    options: dict[str, Any]
    selection: Selection
    pairs: int
    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder in RUN/train."""
        return _folder(self.recipe, self.seed)

    @property
    def label(self) -> str:
        """Its name in the evaluation."""
        return f"{self.recipe}/{self.seed}"

    @property
    def pairs_per_step(self) -> int:
        """Pairs that one process sees in a step."""
        return int(self.options["batch_size"]) * int(self.options["grad_accum"])


def _folder(recipe: str, seed: int) -> str:
    """Locks and folders of trainings are named without dots."""
    return f"{recipe.replace('.', '_')}-{seed}"


def train_words(training: Training, pairs_dir: Path, max_pairs: int | None) -> list[str]:
    """The words of gpa train-dpo that are this training's own."""
    own = ["--recipe", training.named, "--pairs", str(pairs_dir), "--name", training.name]
    limit = [] if max_pairs is None else ["--max-pairs", str(max_pairs)]
    return [*own, "--seed", str(training.seed), *limit]


def _options_of(params: dict[str, Any]) -> dict[str, Any]:
    """What of the options of gpa train-dpo decides the numbers of a training."""
    return {name: value for name, value in sorted(params.items()) if name not in _ASIDE}


def is_trained(run: Run, name: str) -> bool:
    """Whether the adapter of a training is there, which is the last thing it writes but its card."""
    return (run.path / "train" / name / _ADAPTER).is_file()


def adapter_of(run: Path, record: Record) -> Path:
    """The adapter folder of a training in a run directory."""
    return run / "train" / record.name / _ADAPTER.parent


def keep(run: Run, record: Record) -> None:
    """Write the record of a training, unless it is kept already.

    Raises UserError when the folder was trained by other options or on other pairs.
    """
    path = _path(run, record.name)
    before = _read(path) if path.exists() else None
    if before is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(asdict(record), indent=2, default=str).encode())
        return
    now = _plain(record)
    # An option that came with a later gpa is not in the record.
    for name in sorted(before.options):
        if before.options.get(name) != now.options.get(name):
            raise UserError(
                f"{record.name} was trained with {name} {before.options.get(name)!r}, recipe {record.recipe} "
                f"has {now.options.get(name)!r} now: give it another name (FILE:NAME), or delete "
                f"{run.path / 'train' / record.name} and {path}"
            )
    if (before.selection, before.pairs) != (now.selection, now.pairs):
        raise UserError(
            f"{record.name} was trained on {before.pairs} pairs in {before.selection.directory}, recipe "
            f"{record.recipe} chooses {now.pairs} in {now.selection.directory} now (the candidates or the "
            f"rules are others): give it another name (FILE:NAME), or delete "
            f"{run.path / 'train' / record.name} and {path}"
        )


def kept(run: Run, preset: str, first: Sequence[str]) -> list[Record]:
    """The records of the finished trainings of a preset: the recipes named first, then the others by name."""
    records = [_read(path) for path in (run.path / FOLDER / "trainings").glob("*.json")]
    found = [one for one in records if one.preset == preset and is_trained(run, one.name)]
    place = {recipe: position for position, recipe in enumerate(first)}
    return sorted(found, key=lambda one: (place.get(one.recipe, len(place)), one.recipe, one.seed))


def record_of(
    commands: Commands, training: Training, selection: Selection, pairs: int, max_pairs: int | None
) -> Record:
    """What is to be kept of a training that begins."""
    directory = commands.run / selection.directory
    own = train_words(training, directory, max_pairs)
    params = commands.params("train-dpo", *own)
    limits = [limit for limit in (pairs, params["max_pairs"]) if limit is not None]
    score = commands.line("score", "--recipe", training.named)
    pair = commands.line("pair", *pair_words(training, selection, directory))
    return Record(
        recipe=training.recipe.name,
        named=training.named,
        about=training.recipe.about,
        seed=training.seed,
        preset=str(commands.preset),
        changes=training.recipe.changes,
        options=_options_of(params),
        selection=selection,
        pairs=min(limits),
        commands=(score, pair, commands.line("train-dpo", *own)),
    )


def pair_words(training: Training, selection: Selection, directory: Path) -> Sequence[str]:
    """The words of gpa pair that are this recipe's own."""
    version = ["--reward-version", selection.reward_version]
    return ["--recipe", training.named, *version, "--out", str(directory)]


def _plain(record: Record) -> Record:
    return _from_json(json.loads(json.dumps(asdict(record), default=str)))


def _read(path: Path) -> Record:
    try:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it, or delete it and the training of that name"
        ) from error


def _from_json(values: dict[str, Any]) -> Record:
    selection = Selection(**values.pop("selection"))
    commands = tuple(values.pop("commands"))
    return Record(selection=selection, commands=commands, **values)


def _path(run: Run, name: str) -> Path:
    return run.path / FOLDER / "trainings" / f"{name}.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `gpa ablate` is asked for: trainings in the order of the rounds, and how all are evaluated.

    `evaluation` are the words of gpa evaluate that are the ablation's own. `budget` is in seconds of this
    call; None has no end. `match_pairs` gives every recipe as many pairs as the one with fewest has.
    `parallel` trainings at most run side by side. `only` keeps recipes of earlier calls out of the tables.
    """

    commands: Commands
    trainings: tuple[Training, ...]
    evaluation: tuple[str, ...]
    budget: float | None = None
    match_pairs: bool = False
    parallel: int = 1
    only: bool = False

    def with_recipes_of(self, file: Path, names: Collection[str]) -> Settings:
        """The same, with the recipes of these names read from a file."""
        found = tuple(
            replace(one, named=f"{file}:{one.recipe.name}") if one.recipe.name in names else one
            for one in self.trainings
        )
        return replace(self, trainings=found)

    @property
    def recipes(self) -> tuple[str, ...]:
        """The names of the recipes in order."""
        return tuple(dict.fromkeys(one.recipe.name for one in self.trainings))


@dataclass(kw_only=True)
class Outcome:
    """What came of it. `left_out` and `failed` say why by the name of the training."""

    records: list[Record] = field(default_factory=list)
    evaluation: Evaluation | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
