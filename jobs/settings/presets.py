"""Presets fill the options of the commands, recipes change them; the command line overrides both.

Both are layers of YAML: sections by command, options by name, and `extends`, the layer below. A preset is one
that comes with gpa, a file, or one of an installed package, whose entry point of group gpa.presets names the
module beside which NAME.yaml lies; a recipe overrides options of the sections score, pair and train-dpo of
any preset. Beside them a recipe has `about` and `presets` (the same sections for single presets, which are
applied last). A run remembers the preset that it was made with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import yaml

from jobs.settings.layers import Sections, chain, check_keys, checked, laid_over, nearest, read_mapping
from rewards.extensions import Table
from storage.errors import UserError

DEFAULT = "world"
SECTIONS: Final = ("score", "pair", "train-dpo")
PRESET_SECTIONS: Final = ("sample", *SECTIONS, "evaluate")
BASELINES: Final = ("best", "sft", "epipolar-dpo", "videogpa")
# Those with an underscore are layers of others, and no presets.
_LAYERS: Final = {path.stem: path for path in (Path(__file__).parent / "presets").glob("*.yaml")}
_OWN: Final = {name: _LAYERS[name] for name in sorted(_LAYERS) if not name.startswith("_")}
PRESETS: Final = Table[Path | ModuleType]("gpa.presets", ModuleType, _OWN)
_RECIPES = Path(__file__).parent / "recipes"
LONGEST_NAME: Final = 48
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}")
_RECIPE_KEYS = frozenset({"about", "extends", "presets", *SECTIONS})
_PRESET_KEYS = frozenset({"extends", *PRESET_SECTIONS})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The options of every command for one model: `name` is as the user gave it, a file's is its path.

    `lineage` are the names by which recipes know it: its own, and for a file those it extends. `own` is
    whether a file of the user's or of a package, or what a run remembers of one, made it.
    """

    name: str
    sections: Sections
    lineage: tuple[str, ...]
    own: bool = False

    def __str__(self) -> str:
        """Its name, as commands record it."""
        return self.name

    @property
    def model(self) -> Any:
        """The model that it samples."""
        return self.sections.get("sample", {}).get("model")

    def remembered(self) -> dict[str, Any]:
        """What a run keeps of it: the name, and of a file all that it says, so that the file may go."""
        if not self.own:
            return {"name": self.name}
        return {"name": self.name, "lineage": list(self.lineage), "sections": self.sections}


def preset_names() -> list[str]:
    """The presets that come with gpa."""
    return list(_OWN)


def load_preset(named: str) -> Sections:
    """The options of a preset by command. Raises UserError as `find_preset` does."""
    return find_preset(named).sections


def find_preset(named: str) -> Preset:
    """A preset that comes with gpa by its name, or one of a file. Raises UserError for what is none."""
    if named in PRESETS and isinstance(PRESETS[named], Path):
        return Preset(name=named, sections=_resolved(named), lineage=(named,))
    if named not in PRESETS and not _names_a_file(named):
        near = nearest(named, PRESETS)
        raise UserError(
            f"preset {named!r} does not exist; {near}choose one of: {', '.join(PRESETS)}; or give a YAML file"
        )
    names = [name for name, _ in chain(named, _preset_entry, "preset")]
    ships = [position for position, name in enumerate(names) if name in preset_names()]
    return Preset(
        name=named, sections=_resolved(named), lineage=tuple(names[ships[-1] if ships else 0 :]), own=True
    )


def preset_of(named: str | None, run: Path | None) -> Preset:
    """The preset that is named, else that of the run, else the default. Raises UserError."""
    kept = None if named is not None or run is None else of_run(run)
    return kept or find_preset(named or DEFAULT)


def of_run(run: Path) -> Preset | None:
    """The preset that a run was made with; None where there is no run, or none that can be read."""
    try:
        header = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
        kept = header.get("preset")
        if kept is None:
            kept = {"name": _recorded(header["commands"])}
        if "sections" in kept:
            return Preset(
                name=kept["name"], sections=kept["sections"], lineage=tuple(kept["lineage"]), own=True
            )
        return find_preset(kept["name"]) if kept["name"] in preset_names() else None
    except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        # What is wrong with a run is said by the command that opens it.
        return None


def _recorded(commands: Mapping[str, Any]) -> Any:
    """The preset of the command that made a run, from before runs remembered it."""
    first = ("sample", "import", *commands)
    configs = [commands[name].get("config", {}) for name in first if name in commands]
    return next((config["preset"] for config in configs if "preset" in config), None)


def _resolved(named: str) -> Sections:
    """The sections of a preset with those that it extends; null takes an option out."""
    found: Sections = {}
    for _, entry in chain(named, _preset_entry, "preset"):
        found = laid_over(found, {name: entry[name] for name in PRESET_SECTIONS if entry.get(name)})
    found = {
        section: {name: value for name, value in options.items() if value is not None}
        for section, options in found.items()
    }
    if "model" in found.get("sample", {}):
        # What is sampled is what is trained.
        found.setdefault("train-dpo", {}).setdefault("model", found["sample"]["model"])
    return found


@cache
def _shipped_preset(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(_LAYERS[name].read_text(encoding="utf-8")))


def _preset_entry(name: str) -> Mapping[str, Any] | None:
    """A layer of a preset; what a file extends may be another, relative to it."""
    if name in _LAYERS:
        return _shipped_preset(name)
    if name not in PRESETS and not _names_a_file(name):
        return None
    path = _file_of(name)
    entry = read_mapping(path, "a preset", "sections")
    check_keys(str(path), entry, _PRESET_KEYS)
    below = str(entry.get("extends"))
    if below not in PRESETS and not _names_a_file(below):
        raise UserError(
            f"{path}: extends must be the preset or YAML file that this one changes, got {below!r}: "
            f"{nearest(below, PRESETS)}there are {', '.join(PRESETS)}"
        )
    sections = [section for section in PRESET_SECTIONS if section in entry]
    entry |= {section: checked(f"{path}:", section, entry[section]) for section in sections}
    if below not in PRESETS:
        entry["extends"] = os.path.normpath(path.parent / below)
    return entry


def _names_a_file(named: str) -> bool:
    return Path(named).suffix in (".yaml", ".yml")


def _file_of(named: str) -> Path:
    """Where a preset is written. Raises RewardError when it is one of a package that spoils it."""
    found = PRESETS[named] if named in PRESETS else Path(named)
    if isinstance(found, Path):
        return found
    # A module lies in a folder, a package is one, and one without __init__.py may be several.
    folders = [Path(one) for one in getattr(found, "__path__", ())] or [Path(str(found.__file__)).parent]
    files = [one / f"{named}.yaml" for one in folders]
    return next((one for one in files if one.is_file()), files[0])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe for one preset: `changes` are its overrides, `sections` the preset's with them."""

    name: str
    about: str
    changes: Sections
    sections: Sections


def recipe_names() -> list[str]:
    """The recipes that come with gpa, in the order of their files."""
    return list(_shipped_recipes())


def about(name: str) -> str:
    """The line that describes a recipe that comes with gpa."""
    return str(_shipped_recipes()[name].get("about", ""))


def load_recipe(named: str, preset: Preset | str) -> Recipe:
    """A recipe that comes with gpa by its name, or another as FILE:NAME, resolved for a preset.

    Raises UserError for one that does not exist or does not fit, naming what there is.
    """
    base = find_preset(preset) if isinstance(preset, str) else preset
    file, _, name = named.rpartition(":")
    known = _shipped_recipes() | (_read_recipes(Path(file)) if file else {})
    if name not in known:
        raise UserError(
            f"recipe {named!r} does not exist: give FILE:NAME, or one of {', '.join(recipe_names())}"
        )
    changes: Sections = {}
    for _, entry in chain(name, known.get, "recipe"):
        for part in (entry, *(entry.get("presets", {}).get(one, {}) for one in base.lineage)):
            changes = laid_over(changes, {section: part[section] for section in SECTIONS if section in part})
    changes = {section: checked(f"recipe option {name}:", section, part) for section, part in changes.items()}
    line = known[name].get("about") or f"as {known[name].get('extends', 'best')}, with other settings"
    whole = laid_over({section: base.sections.get(section, {}) for section in SECTIONS}, changes)
    return Recipe(name=name, about=str(line), changes=changes, sections=whole)


@cache
def _shipped_recipes() -> dict[str, Any]:
    known: dict[str, Any] = {}
    for path in (_RECIPES / "baselines.yaml", _RECIPES / "ablations.yaml"):
        known |= _read_recipes(path)
    return known


def _read_recipes(path: Path) -> dict[str, Any]:
    """The recipes of a file. Raises UserError for one that is no YAML of recipes."""
    found = read_mapping(path, "recipes", "names to recipes")
    for name, entry in found.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                f"{path}: recipe name {name!r} must be a letter and up to {LONGEST_NAME - 1} more, digits, "
                "-, _ or .: correct it"
            )
        _check_recipe(f"{path}: recipe {name}", entry)
    return found


def _check_recipe(where: str, entry: Any) -> None:
    parts = [entry]
    if isinstance(entry, dict):
        check_keys(where, entry, _RECIPE_KEYS)
        of_presets = entry.get("presets", {})
        parts += [of_presets, *(of_presets.values() if isinstance(of_presets, dict) else ())]
        parts += [entry[section] for section in SECTIONS if section in entry]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{where} must be a mapping of sections to options: correct it")
