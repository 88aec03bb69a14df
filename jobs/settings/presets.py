"""Presets fill every option of a model family, recipes change them; the command line overrides both.

A recipe overrides options of the sections score, pair and train-dpo of any preset. Beside them it has
`about`, `extends` (another recipe, applied first) and `presets` (the same sections for single presets, which
are applied last).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

import click
import yaml

from storage.errors import UserError

DEFAULT = "world"
_PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """The presets that come with gpa."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """The options of a preset by command. Raises UserError naming the known presets."""
    if name not in preset_names():
        raise UserError(f"preset {name!r} does not exist; choose one of: {', '.join(preset_names())}")
    sections: dict[str, dict[str, Any]] = yaml.safe_load(
        (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    )
    return sections


class PresetCommand(click.Command):
    """A command whose defaults are those of the preset that its command line names.

    A command that shares options with another takes those in `taken` from the `section` of that one.
    """

    section: ClassVar[str | None] = None
    taken: ClassVar[tuple[str, ...]] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make the preset's values the defaults before anything is parsed, so that `--help` shows them.

        A recipe, for a command that takes one, changes them first.
        """
        preset = _named(args, "--preset") or DEFAULT
        section = load_preset(preset).get(self.section or str(self.name), {})
        if self.section is not None:
            section = {name: section[name] for name in self.taken if name in section}
        names = {parameter.name for parameter in self.params}
        recipe = _named(args, "--recipe") if any(one.name == "recipe" for one in self.params) else None
        if recipe is not None:
            section = load_recipe(recipe, preset).sections[str(self.name)]
        unknown = sorted(set(section) - names)
        if unknown:
            raise UserError(
                f"preset option {self.name}.{unknown[0]} is no option of gpa {self.name}: correct the preset"
            )
        ctx.default_map = section
        return super().parse_args(ctx, args)


def preset_option(function: Any) -> Any:
    """The option that names the preset; PresetCommand has read it by then."""
    return click.option(
        "--preset",
        default=DEFAULT,
        show_default=True,
        metavar="NAME",
        help=f"Defaults for: {', '.join(preset_names())}.",
    )(function)


def recipe_option(function: Any) -> Any:
    """The option that names the recipe; PresetCommand has read it by then."""
    return click.option(
        "--recipe",
        expose_value=False,
        metavar="NAME",
        help="What a recipe changes in the preset (gpa ablate --list): NAME or FILE:NAME.",
    )(function)


def _named(args: Sequence[str], option: str) -> str | None:
    for position, word in enumerate(args):
        if word == option and position + 1 < len(args):
            return args[position + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


SECTIONS: Final = ("score", "pair", "train-dpo")
BASELINES: Final = ("best", "sft", "epipolar-dpo", "videogpa")
_RECIPES = Path(__file__).parent / "recipes"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,47}")
_KEYS = frozenset({"about", "extends", "presets", *SECTIONS})

Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe for one preset: `changes` are its overrides, `sections` the preset's with them."""

    name: str
    about: str
    changes: Sections
    sections: Sections


def recipe_names() -> list[str]:
    """The recipes that come with gpa, in the order of their files."""
    return list(_shipped())


def about(name: str) -> str:
    """The line that describes a recipe that comes with gpa."""
    return str(_shipped()[name].get("about", ""))


def load_recipe(named: str, preset: str) -> Recipe:
    """A recipe that comes with gpa by its name, or another as FILE:NAME, resolved for a preset.

    Raises UserError for one that does not exist or does not fit, naming what there is.
    """
    file, _, name = named.rpartition(":")
    known = _shipped() | (_read(Path(file)) if file else {})
    if name not in known:
        raise UserError(
            f"recipe {named!r} does not exist: give FILE:NAME, or one of {', '.join(recipe_names())}"
        )
    base = load_preset(preset)
    changes = _changes(name, preset, known, ())
    for section, options in changes.items():
        unknown = sorted(set(options) - _options(section, base))
        if unknown:
            raise UserError(f"recipe option {name}: {section}.{unknown[0]} is no option of gpa {section}")
    merged = {section: base.get(section, {}) | changes.get(section, {}) for section in SECTIONS}
    line = known[name].get("about") or f"as {known[name].get('extends', 'best')}, with other settings"
    return Recipe(name=name, about=str(line), changes=changes, sections=merged)


def _changes(name: str, preset: str, known: dict[str, Any], seen: tuple[str, ...]) -> Sections:
    entry = known.get(name)
    if entry is None or name in seen:
        problem = "extends itself" if name in seen else "does not exist"
        raise UserError(
            f"recipe {seen[-1] if seen else name!r} extends {name!r}, which {problem}: correct it"
        )
    found: Sections = {}
    if "extends" in entry:
        found = _changes(str(entry["extends"]), preset, known, (*seen, name))
    for part in (entry, entry.get("presets", {}).get(preset, {})):
        for section in SECTIONS:
            if section in part:
                found[section] = found.get(section, {}) | part[section]
    return found


def _options(section: str, base: dict[str, Any]) -> set[str]:
    """The options of a command."""
    from importlib import import_module

    from jobs.main import COMMANDS

    command = import_module(COMMANDS[section][0]).command
    return {str(one.name) for one in command.params} | set(base.get(section, {}))


@cache
def _shipped() -> dict[str, Any]:
    known: dict[str, Any] = {}
    for path in (_RECIPES / "baselines.yaml", _RECIPES / "ablations.yaml"):
        known |= _read(path)
    return known


def _read(path: Path) -> dict[str, Any]:
    """The recipes of a file. Raises UserError for one that is no YAML of recipes."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"recipes cannot be read from {path}: {error}; give a YAML file of recipes"
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f"{path} must map names to recipes, got {type(found).__name__}: see gpa ablate --help"
        )
    for name, entry in found.items():
        _check(path, name, entry)
    return found


def _check(path: Path, name: object, entry: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{path}: recipe name {name!r} must be a letter and up to 47 more, digits, - or _: correct it"
        )
    parts = [entry]
    if isinstance(entry, dict):
        unknown = sorted(set(entry) - _KEYS, key=str)
        if unknown:
            raise UserError(
                f"{path}: recipe {name} has {unknown[0]!r}: it may have {', '.join(sorted(_KEYS))}"
            )
        of_presets = entry.get("presets", {})
        parts += [of_presets, *(of_presets.values() if isinstance(of_presets, dict) else ())]
        parts += [entry[section] for section in SECTIONS if section in entry]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: recipe {name} must be a mapping of sections to options: correct it")
