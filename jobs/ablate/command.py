"""gpa ablate: recipes of alignment on one run, within a budget, and the table that compares them."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from jobs.settings.command import Command, preset_option
from jobs.settings.options import dry_run_option, json_option, run_argument
from jobs.settings.presets import preset_of

if TYPE_CHECKING:
    from jobs.ablate.trainings import Outcome, Settings
    from jobs.ablate.vary import Sweep


# Combinations of a sweep that nobody has counted yet.
_MOST = 16


def _list_recipes(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    if not given or ctx.resilient_parsing:
        return
    from jobs.settings.presets import about, recipe_names

    for name in recipe_names():
        click.echo(f"{name:22s} {about(name)}")
    ctx.exit()


@click.command("ablate", cls=Command)
@run_argument
@click.option(
    "--recipes",
    metavar="NAME,...",
    help="Recipes, or FILE:NAME of your own. [default: best,sft,epipolar-dpo,videogpa]",
)
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_recipes,
              help="Print the recipes that come with gpa.")  # fmt: skip
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=A,B,...",
    help="Values of an option, SECTION.OPTION of score, pair or train-dpo; may be given several times. Every "
    "combination is a recipe, the preset with these values; others are then compared only where --recipes "
    "names them.",
)
@click.option(
    "--max-combinations",
    type=click.IntRange(1),
    default=_MOST,
    show_default=True,
    metavar="N",
    help="Refuse a --vary of more.",
)
@preset_option
@click.option("--training-seeds", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Trainings of every recipe.")  # fmt: skip
@click.option(
    "--num-prompts", type=click.IntRange(1), metavar="N", help="Held-out prompts. [default: preset]"
)
@click.option(
    "--seeds", type=click.IntRange(1), metavar="N", help="Clips per prompt and model. [default: preset]"
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Begin nothing that, at the rates measured in RUN, this call would not end in so many minutes. "
    "[default: no end]",
)
@click.option(
    "--match-pairs", is_flag=True, help="Give every recipe as many pairs as the one with fewest has."
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Trainings at once, each a process with its share of the preset's threads, and one GPU in turn.",
)
@click.option("--only", is_flag=True, help="Evaluate and show no recipe of earlier calls, only RECIPES.")
@click.option(
    "--name", default="ablate", show_default=True, metavar="NAME", help="Evaluate in RUN/eval/NAME."
)
@click.option("--workers", type=click.IntRange(0), metavar="N", help="Most Ray actors; 0 is in-process.")
@click.option("--sample", "sample_words", default="", metavar="OPTIONS", help="Those of gpa sample, quoted.")
@click.option("--train", "train_words", default="", metavar="OPTIONS",
              help="Those of gpa train-dpo for every recipe, quoted.")  # fmt: skip
@click.option("--evaluate", "evaluate_words", default="", metavar="OPTIONS",
              help="Those of gpa evaluate, quoted.")  # fmt: skip
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Markdown file; .csv and .json go beside it. [default: RUN/ablate/results.md]",
)
@dry_run_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Train several recipes on the candidates of RUN and compare them.

    Candidates are sampled once (by the preset, or as RUN was), scored once for every reward, and paired for
    every recipe. Trainings lie in RUN/train/RECIPE-SEED. The table has every training of RUN/ablate, also of
    earlier calls: one results file says what was tried (--only leaves it at RECIPES). A recipe is changed by
    giving it another name.
    The same command again does only what is missing. RECIPES are YAML as in jobs/settings/recipes; --vary
    makes them from values, such as --vary train-dpo.beta=100,500 --vary pair.min_gap=.03,.06, into
    RUN/ablate/vary.yaml.
    """
    from jobs.ablate.processes import make_scheduler
    from jobs.ablate.selections import with_candidates
    from jobs.ablate.trainings import FOLDER
    from jobs.ablate.vary import FILE_NAME, write_sweep
    from jobs.main import PARTIAL
    from storage.run import Run

    started = time.monotonic()
    sweep = _sweep(run, chosen)
    with TemporaryDirectory() as folder:
        # Until everything has been looked at, nothing lies in the run.
        file = Path(folder) / FILE_NAME
        write_sweep(file, sweep)
        settings = _settings(run, chosen, [f"{file}:{name}" for name in sweep])
        if dry_run:
            _print_forecast(settings, as_json)
            return
    if sweep:
        file = Run.create_or_open(run).path / FOLDER / FILE_NAME
        write_sweep(file, sweep)
        settings = settings.with_recipes_of(file, sweep)
    opened = with_candidates(settings.commands)
    with opened.lock("ablate"):
        scheduler = make_scheduler(opened, _left_of(settings, time.monotonic() - started), _say)
        outcome = scheduler.execute()
        _finish(outcome, settings, chosen, as_json)
    if outcome.failed:
        ctx.exit(PARTIAL)


def _sweep(run: Path, chosen: dict[str, Any]) -> Sweep:
    """The recipes of --vary; says how many there are."""
    from jobs.ablate.vary import sweep_of, told

    found = sweep_of(chosen["vary"], chosen["preset"] or preset_of(None, run), chosen["max_combinations"])
    if found:
        _say(told(found, chosen["vary"], chosen["training_seeds"]))
    return found


def _settings(run: Path, chosen: dict[str, Any], varied: Sequence[str]) -> Settings:
    from jobs.ablate.commands import Commands
    from jobs.ablate.costs import require_judges
    from jobs.ablate.processes import share_of_threads
    from jobs.ablate.show import rounds
    from jobs.ablate.trainings import Settings, Training
    from jobs.settings.presets import BASELINES, load_recipe
    from storage.errors import UserError

    preset = chosen["preset"] or preset_of(None, run)
    usual = "" if varied else ",".join(BASELINES)
    named = [*_listed(chosen["recipes"] or usual), *varied]
    recipes = [load_recipe(one, preset) for one in named]
    names = [recipe.name for recipe in recipes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        said = f"--recipes {chosen['recipes']!r}{' and --vary' if varied else ''}"
        raise UserError(f"{said} must name recipes once, got {twice or 'none'}")
    threads = preset.sections.get("train-dpo", {}).get("threads")
    commands = Commands(
        run=run,
        preset=preset,
        workers=chosen["workers"],
        threads=None if chosen["parallel"] == 1 else share_of_threads(threads, chosen["parallel"]),
        extra={
            "sample": chosen["sample_words"],
            "train-dpo": chosen["train_words"],
            "evaluate": chosen["evaluate_words"],
        },
    )
    trainings = [
        Training(recipe=recipe, named=name, seed=seed)
        for name, recipe in zip(named, recipes, strict=True)
        for seed in range(chosen["training_seeds"])
    ]
    own = ["--name", chosen["name"]]
    for option in ("num_prompts", "seeds"):
        if chosen[option] is not None:
            own += [f"--{option.replace('_', '-')}", str(chosen[option])]
    settings = Settings(
        commands=commands,
        trainings=rounds(trainings),
        evaluation=tuple(own),
        budget=None if chosen["budget"] is None else 60 * chosen["budget"],
        match_pairs=chosen["match_pairs"],
        parallel=chosen["parallel"],
        only=chosen["only"],
    )
    # What the user quoted is looked at before hours of work, not after.
    commands.params("sample")
    commands.params("train-dpo")
    require_judges(commands, own)
    return settings


def _left_of(settings: Settings, spent: float) -> Settings:
    """The settings with what is left of the budget."""
    return replace(settings, budget=None if settings.budget is None else settings.budget - spent)


def _print_forecast(settings: Settings, as_json: bool) -> None:
    from jobs.ablate.scheduler import Scheduler
    from jobs.ablate.selections import forecast_candidates, open_run
    from jobs.ablate.show import forecast_trainings, show_plan

    sampling = forecast_candidates(settings.commands)
    there = open_run(settings.commands)
    if there is None or not there.rows("candidates", ["candidate_id"]).num_rows:
        text = f"{sampling}\nmore is known once a few candidates are there"
        click.echo(json.dumps({"sample": sampling.as_dict()}) if as_json else f"sample: {text}")
        return
    scheduler = Scheduler(run=there, settings=_left_of(settings, 3600 * (sampling.hours or 0)), say=_say)
    if not as_json:
        show_plan(scheduler, str(sampling))
        return
    told = {
        training.name: {"seconds": cost.seconds, "unknown": list(cost.unknown), "fits": fits}
        for training, cost, fits in forecast_trainings(scheduler)
    }
    click.echo(json.dumps({"sample": sampling.as_dict(), "trainings": told}))


def _finish(outcome: Outcome, settings: Settings, chosen: dict[str, Any], as_json: bool) -> None:
    """Write the files and print the tables."""
    from jobs.ablate.files import as_json as plain
    from jobs.ablate.files import write_results
    from jobs.ablate.show import show
    from jobs.ablate.tables import figures
    from jobs.ablate.trainings import FOLDER

    found = figures(outcome, settings.recipes[0])
    path = chosen["results"] or settings.commands.run / FOLDER / "results.md"
    made_by = _made_by(outcome, settings, {**chosen, "preset": settings.commands.preset})
    files = write_results(path, made_by, outcome, found)
    if as_json:
        click.echo(json.dumps(plain(made_by, outcome, found)))
    else:
        show(outcome, found, files)


def _made_by(outcome: Outcome, settings: Settings, chosen: dict[str, Any]) -> str:
    """The command that makes the results, from nothing: with the recipes of earlier calls that they hold."""
    earlier = [] if settings.only else [one.named for one in outcome.records]
    own = [one.named for one in settings.trainings]
    if chosen["vary"]:
        swept = set(own) - set(_listed(chosen["recipes"]))
        named = [one for one in _listed(chosen["recipes"]) + earlier if one not in swept]
    else:
        named = own + earlier
    words = ["gpa", "ablate", str(settings.commands.run)]
    words += ["--recipes", ",".join(dict.fromkeys(named))] if named else []
    words += [word for text in chosen["vary"] for word in ("--vary", text)]
    if chosen["vary"] and chosen["max_combinations"] != _MOST:
        words += ["--max-combinations", str(chosen["max_combinations"])]
    for name in ("preset", "training_seeds", "num_prompts", "seeds", "name", "results"):
        if chosen[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(chosen[name])]
    for name in ("sample", "train", "evaluate"):
        if chosen[f"{name}_words"]:
            words += [f"--{name}", chosen[f"{name}_words"]]
    if settings.parallel > 1:
        # It decides the threads of a training, and these its last bits.
        words += ["--parallel", str(settings.parallel)]
    flags = [f"--{name.replace('_', '-')}" for name in ("match_pairs", "only") if chosen[name]]
    return shlex.join([*words, *flags])


def _listed(recipes: str | None) -> list[str]:
    return [one.strip() for one in (recipes or "").split(",") if one.strip()]


def _say(line: str) -> None:
    click.echo(line, err=True)
