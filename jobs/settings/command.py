"""The commands whose defaults are those of a preset, and the options that name it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click

from jobs.settings.from_dataclass import OTHER, Setting
from jobs.settings.presets import DEFAULT, PRESETS, Preset, find_preset, load_recipe, of_run, preset_of
from rewards.errors import RewardError
from storage.errors import UserError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# The headings of a help in their order; any other comes before the last.
_GROUPS = (
    "Defaults",
    "Which candidates",
    "Which videos",
    "Which pairs",
    "Reward",
    "Training",
    "Judges",
    "Model",
    "Video",
    "Validation",
    "Compute",
    "Workers",
    "Output",
    OTHER,
)
_GROUPS_OF = {
    "preset": "Defaults",
    "recipe": "Defaults",
    "dry_run": "Output",
    "as_json": "Output",
    "finish": "Output",
}
_ALL = "jobs.settings.command.help_all"
# A name by itself: between backticks, or no part of a path, of another name or of a flag. A plain word is a
# name where it is said what it must be.
_FIELD = re.compile(r"`(?P<marked>\w+)`|(?<![\w./-])(?P<plain>[a-z]\w*)(?![\w/-]|\.\w)")


class Command(click.Command):
    """A command that says the flags of its options where a library says the fields of its settings.

    Its help shows the common ones of the options that come from settings, by what they concern; --help-all
    shows all.
    """

    def __init__(self, *args: Any, **attributes: Any) -> None:
        """A click command, with --help-all where --help does not show everything."""
        super().__init__(*args, **attributes)
        if any(isinstance(one, Setting) and not one.common for one in self.params):
            self.params.append(
                click.Option(
                    ["--help-all"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_help_all,
                    help="Show every option and exit.",
                )
            )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under headings: those that come from settings by their group, the others last."""
        if not any(isinstance(one, Setting) for one in self.params):
            super().format_options(ctx, formatter)
            return
        groups: dict[str, list[tuple[str, str]]] = {}
        left_out = False
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is None or not isinstance(one, click.Option):
                continue
            if isinstance(one, Setting) and not one.common and not ctx.meta.get(_ALL):
                left_out = True
                continue
            group = one.group if isinstance(one, Setting) else _GROUPS_OF.get(str(one.name), OTHER)
            groups.setdefault(group, []).append(record)
        for group in sorted(
            groups, key=lambda name: _GROUPS.index(name) if name in _GROUPS else len(_GROUPS)
        ):
            with formatter.section(group):
                formatter.write_dl(groups[group])
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(f"All options: {ctx.command_path} --help-all")

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; errors of settings are put in the words of the command line."""
        from pipeline.telling import told_to

        # As with the bar of progress: what nobody watches is not told.
        watched = sys.stderr.isatty() and not ctx.params.get("as_json")
        try:
            with told_to(_show) if watched else nullcontext():
                return super().invoke(ctx)
        except (UserError, RewardError) as error:
            error.args = (self.with_flags(str(error.args[0])), *error.args[1:])
            raise

    def with_flags(self, message: str) -> str:
        """A message with the names of fields, as `FieldError` writes them, made the flags of this command."""
        flags = {one.name: one.opts[0] for one in self.params if isinstance(one, click.Option)}

        def said(found: re.Match[str]) -> str:
            name = found["marked"] or found["plain"]
            sure = found["marked"] or "_" in name or found.string.startswith(" must be ", found.end())
            return flags[name] if sure and name in flags else found[0]

        return _FIELD.sub(said, message)


def _show(what: str) -> None:
    click.echo(f"{what} ...", err=True)


def _help_all(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


class PresetCommand(Command):
    """A command whose defaults are those of the preset that its command line or else its run names.

    A command that shares options with another takes those in `taken` from the `section` of that one.
    `samples` is whether it makes candidates: those of one run are of one model.
    """

    section: ClassVar[str | None] = None
    taken: ClassVar[tuple[str, ...]] = ()
    samples: ClassVar[bool] = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make the preset's values the defaults before anything is parsed, so that `--help` shows them.

        A recipe, for a command that takes one, changes them first.
        """
        words = self._words(ctx, args)
        preset = self._preset(words)
        section = preset.sections.get(self.section or str(self.name), {})
        if self.section is not None:
            section = {name: section[name] for name in self.taken if name in section}
        if "recipe" in words:
            section = load_recipe(words["recipe"], preset).sections[str(self.name)]
        unknown = sorted(set(section) - {parameter.name for parameter in self.params})
        if unknown:
            raise UserError(
                f"preset {preset}: option {self.name}.{unknown[0]} is no option of gpa {self.name}: correct "
                "the preset, or install the package that brings the option"
            )
        ctx.default_map = {**section, "preset": preset}
        return super().parse_args(ctx, args)

    def _words(self, ctx: click.Context, args: list[str]) -> dict[str, str]:
        """The texts of the command line; what is wrong with it is said when it is parsed."""
        try:
            found, _, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError:
            return {}
        return {name: value for name, value in found.items() if isinstance(value, str)}

    def _preset(self, words: dict[str, str]) -> Preset:
        """The preset of a command line; where its run has another, that is said, or refused."""
        run = Path(words["run"]) if "run" in words else None
        preset = preset_of(words.get("preset"), run)
        made_with = None if run is None or "preset" not in words else of_run(run)
        if made_with is None or made_with.sections == preset.sections:
            return preset
        said = f"{run} was made with preset {made_with}, this command names {preset}"
        if self.samples and made_with.model != preset.model and "model" not in words:
            raise UserError(
                f"{said}, which samples {preset.model}: a run holds the candidates of one model "
                f"({made_with.model}); leave out --preset, or give another run directory"
            )
        click.echo(f"note: {said}; without --preset it takes the run's", err=True)
        return preset


def preset_option(function: FunctionT) -> FunctionT:
    """The option that names the preset; PresetCommand has read it by then."""
    return a_preset(
        f"Defaults for a model: a YAML file, or one of {', '.join(PRESETS)}. "
        f"[default: the run's, else {DEFAULT}]"
    )(function)


def a_preset(help_line: str) -> Callable[[FunctionT], FunctionT]:
    """An option whose value is a preset. Raises UserError for a name or a file that is none."""
    return click.option(
        "--preset", type=click.UNPROCESSED, callback=_found, metavar="NAME|FILE", help=help_line
    )


def _found(_ctx: click.Context, _option: click.Parameter, value: Any) -> Preset | None:
    return find_preset(value) if isinstance(value, str) else value


def recipe_option(function: FunctionT) -> FunctionT:
    """The option that names the recipe; PresetCommand has read it by then."""
    return click.option(
        "--recipe",
        expose_value=False,
        metavar="NAME",
        help="What a recipe changes in the preset (gpa ablate --list): NAME or FILE:NAME.",
    )(function)
