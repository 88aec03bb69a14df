"""gpa run: sample, score and pair as one flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.settings.command import Command, preset_option
from jobs.settings.options import counts, finish, json_option, print_result, recordable, run_argument
from jobs.stages import parsed_options

if TYPE_CHECKING:
    from jobs.settings.presets import Preset
    from pipeline.flow import FlowResult
    from pipeline.pairing import PairResult
    from pipeline.sampling.sample import SamplePlan


@click.command("run", cls=Command)
@run_argument
@preset_option
@click.option("--sample", "sample_words", default="", metavar="OPTIONS", help="Those of gpa sample, quoted.")
@click.option("--score", "score_words", default="", metavar="OPTIONS", help="Those of gpa score, quoted.")
@click.option("--pair", "pair_words", default="", metavar="OPTIONS", help="Those of gpa pair, quoted.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: Path,
    preset: Preset | None,
    sample_words: str,
    score_words: str,
    pair_words: str,
    as_json: bool,
) -> None:
    """Sample, score and pair RUN as one flow: prompts are scored while later ones are sampled.

    Candidates, scores and pairs are those of gpa sample, gpa score and gpa pair with the same options:

    \b
      gpa run RUN --preset world --sample "--num-prompts 40 --workers 2" --pair "--min-gap 0.05"

    The same command again does only what is missing.
    """
    from jobs.data.pair import pair_settings
    from jobs.data.sample import sample_settings, say_splits
    from jobs.data.score import announce, given_options, score_settings
    from jobs.head_start import begin_sampling

    before = [str(run), *([] if preset is None else ["--preset", str(preset)])]
    sample = parsed_options("sample", before, sample_words).params
    score_ctx = parsed_options("score", before, score_words)
    score, pair = score_ctx.params, parsed_options("pair", before, pair_words).params
    sampling, scoring = sample_settings(sample), score_settings(score, given_options(score_ctx))
    begin_sampling(run, sample, beside=score["workers"])
    from jobs.progress import ConsoleProgress
    from pipeline.flow import FlowSettings, run_flow
    from pipeline.pairing import run_pair
    from storage.run import Run

    settings = FlowSettings(sample=sampling, score=scoring)
    pairing, limits = pair_settings(pair)
    opened = Run.create_or_open(run)

    def record(plan: SamplePlan) -> None:
        say_splits(plan)
        opened.record("sample", recordable(sample), preset=sample["preset"].remembered())
        opened.record("score", recordable(score))
        announce(settings.score.reward.describe()[1])

    flow = run_flow(opened, settings, progress=ConsoleProgress("candidates"), before_work=record)
    paired = run_pair(
        opened, pairing, before_work=lambda: opened.record("pair", recordable(pair)), limits=limits
    )
    _print(flow, paired, run, as_json)
    finish(ctx, flow.sample, "candidates", "rejects, or candidates with status failed")
    finish(ctx, flow.score, "scores", "rejects, or scores without a value")


def _print(flow: FlowResult, paired: PairResult, run: Path, as_json: bool) -> None:
    values: dict[str, Any] = {
        "sample": counts(flow.sample),
        "score": counts(flow.score),
        "reward_version": flow.reward_version,
        "pairs": paired.pairs,
        "prompts": paired.prompts,
    }
    text = (
        f"{flow.sample.done} candidates sampled and {flow.score.done} scored, {flow.sample.present} and "
        f"{flow.score.present} were; {paired.pairs} pairs of {paired.prompts} prompts in {run}"
    )
    print_result(values, as_json, text)
