"""Options of the command line from the fields of settings dataclasses, and the dataclasses from the options.

A field whose metadata has `help` is an option. The rest follows from the field: its name is the flag and the
key of a preset, its type the type of the option (a Literal its choices, bool a flag and its opposite, a tuple
an option that may be repeated, `X | None` one that may be left out), its default the default. A field that is
a dataclass itself stands for its own fields. Besides `help` metadata may have

    metavar   what stands for the value in the help
    group     the heading in the help; common: whether the short help shows it
    none      the word that a command line says for None
    flag      the spelling of the flag where it is not the name's
    default   the words for a default that only the code knows
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
SettingsT = TypeVar("SettingsT")

OTHER = "Other options"


class Setting(click.Option):
    """An option with its heading in the help, and whether the short help shows it."""

    def __init__(
        self,
        *args: Any,
        group: str = OTHER,
        common: bool = False,
        words: str | None = None,
        **attributes: Any,
    ) -> None:
        """A click option of a group; `words` say its default where no value does."""
        super().__init__(*args, **attributes)
        self.group, self.common, self.words = group, common, words

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Its flag and its help, with the words for its default where no preset has another."""
        record = super().get_help_record(ctx)
        if record is None or self.words is None or (ctx.default_map or {}).get(str(self.name)) is not None:
            return record
        return record[0], f"{record[1]}  [default: {self.words}]"


def options_of(
    cls: type, *, without: Collection[str] = (), change: Mapping[str, Mapping[str, Any]] | None = None
) -> Callable[[FunctionT], FunctionT]:
    """A decorator with the options of a settings dataclass, but those in `without`.

    `change` has what is different in this command, by the name of the option, as click takes it.
    """

    def decorate(function: FunctionT) -> FunctionT:
        made = [
            _option_of(one, kind, (change or {}).get(one.name, {}))
            for one, kind in settings_of(cls)
            if one.name not in without
        ]
        for decorator in reversed(made):
            function = decorator(function)
        return function

    return decorate


def _option_of(one: Field[Any], kind: Any, change: Mapping[str, Any]) -> Callable[[FunctionT], FunctionT]:
    """The option of one field."""
    flag = f"--{one.name.replace('_', '-')}"
    many = typing.get_origin(kind) is tuple
    plain, _ = _without_none(typing.get_args(kind)[0] if many else kind)
    if plain is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    none = one.metadata.get("none")
    default = None if one.default is MISSING else one.default
    attributes: dict[str, Any] = {
        "default": none if default is None else default,
        "show_default": True,
        "type": None if plain is bool else _click_type(plain, none),
        "metavar": None if plain is bool else one.metadata.get("metavar"),
        "help": one.metadata["help"],
        "words": one.metadata.get("default"),
        "group": one.metadata.get("group", OTHER),
        "common": one.metadata.get("common", False),
    }
    if many:
        attributes |= {"multiple": True, "default": list(default or ())}
    return click.option(one.metadata.get("flag", flag), one.name, cls=Setting, **attributes | dict(change))


@cache
def settings_of(cls: type) -> tuple[tuple[Field[Any], Any], ...]:
    """The fields that are options with their types, those of fields that are dataclasses among them."""
    return tuple(_flat(cls))


def _flat(cls: type) -> Iterator[tuple[Field[Any], Any]]:
    kinds = typing.get_type_hints(cls)
    for one in fields(cls):
        kind = kinds[one.name]
        if is_dataclass(kind):
            yield from _flat(typing.cast(type, kind))
        elif "help" in one.metadata:
            yield one, kind


def names_of(*classes: type) -> tuple[str, ...]:
    """The names of the options of settings dataclasses."""
    return tuple(one.name for cls in classes for one, _ in settings_of(cls))


def union_of(classes: Mapping[str, type], apart_from: Collection[str] = ()) -> type:
    """A dataclass with the options of several, for a command that works by one of them: none has a default.

    Choices are those of all; the help says the defaults of each. Raises TypeError where two of them have an
    option of one name and different types, or one is called as an option in `apart_from`.
    """
    found: dict[str, dict[str, tuple[Field[Any], Any]]] = {}
    for name, cls in classes.items():
        for one, kind in settings_of(cls):
            if one.name in apart_from:
                raise TypeError(f"the command has an option {one.name} of its own: {name} must rename it")
            found.setdefault(one.name, {})[name] = (one, kind)
    return make_dataclass(
        "Union", [_united(name, each) for name, each in found.items()], frozen=True, kw_only=True
    )


def _united(name: str, each: Mapping[str, tuple[Field[Any], Any]]) -> tuple[str, Any, Any]:
    kinds = [_without_none(kind)[0] for _, kind in each.values()]
    literal = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    if len({str if kind in literal else kind for kind in kinds}) != 1:
        raise TypeError(f"option {name} is of different types for {', '.join(each)}")
    choices = dict.fromkeys(choice for kind in literal for choice in typing.get_args(kind))
    united: Any = Literal.__getitem__(tuple(choices)) if choices else kinds[0]
    whose: dict[Any, list[str]] = {}
    for who, (one, _) in each.items():
        whose.setdefault(one.default, []).append(who)
    words = [f"{value} for {' and '.join(names)}" for value, names in whose.items()]
    default = ", ".join(words) if len(words) > 1 else str(next(iter(whose)))
    first = next(iter(each.values()))[0]
    return (
        name,
        united | None,
        field(default=None, metadata={"default": default, "group": "Reward", **first.metadata}),
    )


def built(cls: type[SettingsT], chosen: Mapping[str, Any], **fixed: Any) -> SettingsT:
    """A settings dataclass from parsed options, a section of a preset or a recorded configuration.

    What is not there, or None where that is no value, is as the dataclass has it. `fixed` are fields that no
    option decides. Raises what the dataclass raises.
    """
    kinds = typing.get_type_hints(cls)
    values = dict(fixed)
    for one in fields(cls):  # type: ignore[arg-type]  # a dataclass, which mypy cannot know
        if one.name in fixed:
            continue
        kind = kinds[one.name]
        if is_dataclass(kind):
            part = typing.cast(type, kind)
            inner = {one.name: values.pop(one.name) for one in fields(part) if one.name in values}
            values[one.name] = built(part, chosen, **inner)
        elif one.name in chosen:
            found = _plain(chosen[one.name], kind, one.metadata.get("none"))
            if found is not MISSING:
                values[one.name] = found
    return cls(**values)


def _plain(value: Any, kind: Any, none: str | None) -> Any:
    """A value as the field takes it, MISSING where it is left open."""
    kind, optional = _without_none(kind)
    if value is None or (none is not None and value == none):
        return None if optional else MISSING
    if typing.get_origin(kind) is tuple:
        return tuple(value)
    # Recorded configurations hold texts and whole numbers for these.
    return kind(value) if kind in (Path, float) else value


def _without_none(kind: Any) -> tuple[Any, bool]:
    """A type without `| None`, and whether it had that."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind, False
    rest = [one for one in typing.get_args(kind) if one is not types.NoneType]
    if len(rest) != 1:
        raise TypeError(f"an option has one type, or one and None, not {kind}")
    return rest[0], True


def _click_type(kind: Any, none: str | None) -> Any:
    if typing.get_origin(kind) is Literal:
        return click.Choice([*typing.get_args(kind), *([] if none is None else [none])])
    if kind is Path:
        return click.Path(path_type=Path)
    if kind not in (int, float, str):
        raise TypeError(f"there is no option of type {kind}")
    return kind
