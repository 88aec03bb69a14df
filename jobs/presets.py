"""Presets: YAML files that fill every option for one model family; the command line overrides them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import click
import yaml

from storage.errors import UserError

DEFAULT = "world"
_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """The presets that come with gpa."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """The options of a preset by command. Raises UserError naming the known presets."""
    if name not in preset_names():
        raise UserError(f"preset {name!r} does not exist; choose one of: {', '.join(preset_names())}")
    sections: dict[str, dict[str, Any]] = yaml.safe_load(
        (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
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
            from jobs.recipes import load_recipe

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
