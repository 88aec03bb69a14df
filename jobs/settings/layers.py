"""Layers of YAML, of which presets and recipes are made: what one extends, and options checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import click
import yaml

from storage.errors import UserError

Sections: TypeAlias = dict[str, dict[str, Any]]
# Options that say where, and how a result is shown: nothing that a preset or a recipe could decide.
NOT_SETTINGS: Final = frozenset(
    {"run", "preset", "recipe", "finish", "dry_run", "as_json", "help", "help_all"}
)


def chain(
    first: str, entry_of: Callable[[str], Mapping[str, Any] | None], what: str
) -> list[tuple[str, Mapping[str, Any]]]:
    """An entry with what it extends, the lowest first. Raises UserError where that has no end."""
    found: dict[str, Mapping[str, Any]] = {}
    name: str | None = first
    while name is not None:
        entry = None if name in found else entry_of(name)
        if entry is None:
            problem = "extends itself" if name in found else "does not exist"
            upper = list(found)[-1] if found else name
            raise UserError(f"{what} {upper!r} extends {name!r}, which {problem}: correct it")
        found[name] = entry
        name = str(entry["extends"]) if "extends" in entry else None
    return list(found.items())[::-1]


def laid_over(below: Sections, above: Sections) -> Sections:
    """Sections with others laid over them, option by option."""
    return {name: below.get(name, {}) | above.get(name, {}) for name in (*below, *above)}


def read_mapping(path: Path, what: str, maps: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds. Raises UserError for a file that is none."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{what} cannot be read from {path}: {error}; give a YAML file") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must map {maps}, got {type(found).__name__}: correct it")
    return found


def check_keys(where: str, entry: Mapping[Any, Any], keys: Collection[str]) -> None:
    """Raise UserError for an entry with another key, saying which it may have meant."""
    for key in entry:
        if key not in keys:
            near = nearest(str(key), keys)
            raise UserError(f"{where} has {key!r}: {near}it may have {', '.join(sorted(keys))}")


def checked(where: str, section: str, options: Any) -> dict[str, Any]:
    """The options of a section as their command takes them; null leaves one to the command.

    Raises UserError naming the option, what it may be, what it is, and what comes nearest.
    """
    if not isinstance(options, dict):
        raise UserError(f"{where} {section} must map options to values, got {options!r}: correct it")
    from jobs.main import named_command

    command = named_command(section)
    known = {str(one.name): one for one in command.params if one.name not in NOT_SETTINGS}
    found = {}
    for name, value in options.items():
        if name not in known:
            remedy = nearest(str(name), known) or f"see gpa {section} --help-all"
            raise UserError(f"{where} {section}.{name} is no option of gpa {section}: {remedy}")
        try:
            found[name] = _value(known[name], value, click.Context(command))
        except (click.UsageError, TypeError, ValueError) as error:
            said = error.format_message() if isinstance(error, click.UsageError) else str(error)
            raise UserError(f"{where} {section}.{name} got {value!r}: {said}") from error
    return found


def _value(option: click.Parameter, value: Any, ctx: click.Context) -> Any:
    """A value of YAML as the option takes it: 1e-4 is a text to YAML."""
    if value is None:
        return None
    if isinstance(value, (list, dict)) != option.multiple:
        raise ValueError(f"give {'a list' if option.multiple else 'one value'}")
    cast = option.type_cast_value(ctx, value)
    return cast if isinstance(value, str) and isinstance(cast, (int, float)) else value


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that comes nearest, as a question; nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}? " if near else ""
