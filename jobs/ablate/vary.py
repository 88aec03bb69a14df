"""Recipes of a sweep: the preset with every combination of some values, as a file of recipes.

`--vary train-dpo.beta=100,500 --vary pair.min_gap=.03,.06` makes four, named by what varies, such as
beta-100.gap-0.03. They lie in RUN/ablate/vary.yaml, with those of earlier sweeps, and are recipes as any.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from jobs.settings.from_dataclass import built
from jobs.settings.layers import Sections, checked, nearest
from jobs.settings.presets import LONGEST_NAME, SECTIONS, Preset
from rewards.errors import RewardError
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.tables.ids import content_id

FILE_NAME = "vary.yaml"
_FORM = re.compile(r"(?P<section>[\w-]+)\.(?P<option>\w+)=(?P<values>.+)")
_UNNAMED = re.compile(r"[^A-Za-z0-9.-]+")
_HASH_DIGITS = 8
# What an ablation gives every training itself.
_OWN = ("train-dpo.seed", "train-dpo.name", "train-dpo.pairs", "pair.out", "pair.reward_version")

# By name what a file of recipes has of each.
Sweep: TypeAlias = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Varied:
    """An option with its values, as the command takes them."""

    section: str
    option: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """What a recipe calls it: its own name, without the `min` that most bounds have, with its section
        where another has an option of that name."""
        from jobs.main import named_command

        known = {section: {one.name for one in named_command(section).params} for section in SECTIONS}
        every = set[str | None]().union(*known.values())
        bare = self.option.removeprefix("min_")
        short = self.option if bare in every else bare
        shared = sum(self.option in names for names in known.values()) > 1
        return f"{self.section}-{short}" if shared else short


def sweep_of(texts: Sequence[str], preset: Preset, most: int) -> Sweep:
    """The recipes of all combinations of what `--vary` says, in the order of its values.

    Raises UserError for what is no option or no value of it, for settings that do not fit together, and for
    more combinations than `most`.
    """
    varied = [_parsed(text) for text in texts]
    keys = [(one.section, one.option) for one in varied]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"--vary names {'.'.join(twice)} twice: give all of its values in one")
    found: Sweep = {}
    combinations = list(itertools.product(*(one.values for one in varied))) if varied else []
    if len(combinations) > most:
        raise UserError(
            f"--vary makes {len(combinations)} combinations, at most {most} are taken: leave values out, or "
            f"give --max-combinations {len(combinations)}"
        )
    for values in combinations:
        name = _named([f"{one.name}-{_text(value)}" for one, value in zip(varied, values, strict=True)])
        sections: Sections = {}
        for one, value in zip(varied, values, strict=True):
            sections.setdefault(one.section, {})[one.option] = value
        _require_settings(name, preset, sections)
        about = ", ".join(
            f"{one.section}.{one.option} {value}" for one, value in zip(varied, values, strict=True)
        )
        found[name] = {"about": f"the preset with {about}", **sections}
    return found


def told(sweep: Mapping[str, Any], texts: Sequence[str], seeds: int) -> str:
    """How many combinations and trainings there are, in words."""
    counts = " x ".join(f"{text.partition('=')[0]} ({len(_parsed(text).values)})" for text in texts)
    return f"{len(sweep)} combinations of {counts}, {len(sweep) * seeds} trainings"


def write_sweep(path: Path, sweep: Sweep) -> None:
    """Write recipes into a file, beside those that it holds. Raises UserError for a file that is none."""
    held: Any = {}
    if path.exists():
        try:
            held = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({error}): put it right, or delete it") from error
    if not isinstance(held, dict):
        raise UserError(f"{path} must map names to recipes, got {type(held).__name__}: delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, yaml.safe_dump(held | sweep, sort_keys=False).encode())


def _parsed(text: str) -> _Varied:
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise UserError(
            f"--vary must be SECTION.OPTION=VALUE,..., got {text!r}: such as train-dpo.beta=100,500"
        )
    section, option = form["section"], form["option"]
    if section not in SECTIONS:
        near = nearest(section, SECTIONS)
        raise UserError(f"--vary {text!r} has no section of recipes: {near}they are {', '.join(SECTIONS)}")
    if f"{section}.{option}" in _OWN:
        raise UserError(
            f"--vary {text!r} is what gpa ablate gives every training itself: vary another option (for seeds "
            "there is --training-seeds)"
        )
    given = [value.strip() for value in form["values"].split(",")]
    values = [checked("--vary", section, {option: value})[option] for value in given]
    return _Varied(section=section, option=option, values=tuple(dict.fromkeys(values)))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return _UNNAMED.sub("-", str(value).lower() if isinstance(value, bool) else str(value))


def _named(parts: Sequence[str]) -> str:
    name = ".".join(part.replace("_", "-") for part in parts)
    if len(name) <= LONGEST_NAME:
        return name
    # Its end is what tells it from its neighbours.
    return f"{name[: LONGEST_NAME - _HASH_DIGITS - 1]}-{content_id(name)[:_HASH_DIGITS]}"


def _require_settings(name: str, preset: Preset, changes: Sections) -> None:
    """Raise UserError where the settings of a command would refuse these options."""
    from jobs.data.score import score_settings
    from storage.mining.rules import PairSettings
    from trainer.config import TrainConfig

    whole = {section: preset.sections.get(section, {}) | changes.get(section, {}) for section in SECTIONS}
    nowhere = dict.fromkeys(("model_dir", "pairs_dir", "out_dir"), Path())
    try:
        if "score" in changes:
            score_settings(whole["score"], set(changes["score"]))
        if "pair" in changes:
            built(PairSettings, whole["pair"])
        if "train-dpo" in changes:
            built(TrainConfig, whole["train-dpo"], **nowhere, model="any", revision="any")
    except (UserError, RewardError) as error:
        raise UserError(f"--vary, {name}: {error}") from error
