"""The forecasts of sampling, scoring, pairing and evaluating, from what a run has measured.

Without a measurement there is no time, and sizes follow from the model's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.evaluate import EvaluateSettings, wanted_clips
from pipeline.forecast.forecast import Footprint, Forecast, Rate, model_sizes
from pipeline.models import ModelRef
from pipeline.pairing import PairResult
from pipeline.sampling.sample import SamplePlan, plan_sample
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from pipeline.scoring.score import ScorePlan
from pipeline.scoring.settings import ScoreSettings
from storage.errors import UserError
from storage.judgements import judging_seconds, read_judgements
from storage.run import Run
from storage.sql.views import scored_ids
from storage.tables.ids import canonical_json
from storage.tables.shards import read_rows, shard_files

# A row of scores with its shard's share of a footer, without what every frame adds.
_SCORE_BYTES, _SCORE_FRAME_BYTES = 3000, 100
_JUDGEMENT_BYTES = 600
_MEASURED_FILES = 64
_UNMEASURED_SAMPLES = "no candidate of these settings yet: sample a few with --limit 1, then ask again"
_UNMEASURED_SCORES = "no score of this version yet: score a few with --limit 1, then ask again"
_UNMEASURED_CLIPS = "no clip judged by these judges yet: evaluate with --num-prompts 1, then ask again"


def forecast_sample(run: Run | None, settings: SampleSettings, plan: SamplePlan) -> Forecast:
    """Candidates to sample: time and bytes of those of the same settings that the run holds."""
    alike = [] if run is None else _alike(run, plan.model, settings.sampler)
    missing = sum(len(task.ids) for task in plan.tasks)
    prompts = {task.prompt.prompt_id for task in plan.tasks}
    return Forecast(
        unit="candidates",
        wanted=plan.wanted,
        present=plan.wanted - missing,
        rate=Rate.measured(
            [row["seconds"] for row in alike], "candidates of these settings", _UNMEASURED_SAMPLES
        ),
        footprint=_sample_footprint(run, settings.sampler, plan.model, alike, len(prompts)),
        workers=settings.workers,
        gpus_per_worker=settings.gpus_per_worker,
    )


def forecast_score(run: Run, settings: ScoreSettings, plan: ScorePlan) -> Forecast:
    """Candidates to score, by the scores of this version that the run holds."""
    missing = sum(len(task.ids) for task in plan.tasks)
    return _score_forecast([run], settings, plan.reward_version, plan.wanted, plan.wanted - missing)


def forecast_pair(run: Run, result: PairResult, *, index_only: bool) -> Forecast:
    """Pairs to write. No model runs, so that there is nothing to time."""
    rows = _rows_of(result)
    ids = set(rows["pair_id"].to_pylist())
    try:
        held = set(read_rows(result.directory, "pairs", ["pair_id"])["pair_id"].to_pylist())
    except UserError:
        held = set()  # foreign files, which gpa pair refuses
    return Forecast(
        unit="pairs",
        wanted=len(ids),
        present=len(ids & held),
        rate=Rate(seconds=None, source="no model runs: seconds, and the time to write"),
        footprint=_pair_footprint(run, result, index_only),
    )


def forecast_evaluate(run: Run, settings: EvaluateSettings) -> tuple[Forecast, Forecast, Forecast]:
    """Sampling, scoring and judging of an evaluation, by what it or its run has measured."""
    path = run.path / "eval" / settings.name
    inner = Run.open(path) if path.exists() else None
    measured = [run] if inner is None else [inner, run]
    settings = replace(settings, sample=settings.chosen(run).sample)
    wanted = wanted_clips(settings, inner)
    ids = set(wanted.models)
    parts = [plan_sample(sample, inner, write=False) for sample in settings.models().values()]
    sampling = _joined(parts)
    source = next((one for one in measured if _alike(one, sampling.model, settings.sample.sampler)), run)
    version, _ = settings.score.reward.describe()
    scored = set() if inner is None else scored_ids(inner, settings.score.reward.reward, version) & ids
    return (
        forecast_sample(source, settings.sample, sampling),
        _score_forecast(measured, settings.score, version, len(ids), len(scored)),
        _judge_forecast(inner, settings, settings.panel(wanted.prompts).versions, ids),
    )


def _judge_forecast(
    inner: Run | None, settings: EvaluateSettings, versions: Mapping[str, str], ids: set[str]
) -> Forecast:
    """Clips to measure, by the judgements of these judges that the evaluation holds."""
    held = {} if inner is None else read_judgements(inner, versions)
    spent = [] if inner is None else judging_seconds(inner, versions)
    return Forecast(
        unit="clips to judge",
        wanted=len(ids),
        present=sum(len(held.get(name, ())) == len(versions) for name in ids),
        rate=Rate.measured(spent, "clips by these judges", _UNMEASURED_CLIPS),
        footprint=Footprint(each=_JUDGEMENT_BYTES * len(versions), source="rows of a few numbers"),
        workers=settings.score.workers,
        gpus_per_worker=settings.score.gpus_per_worker,
    )


def _joined(plans: Sequence[SamplePlan]) -> SamplePlan:
    first = plans[0]
    return SamplePlan(
        model=first.model,
        adapter=None,
        prompts=first.prompts,
        wanted=sum(plan.wanted for plan in plans),
        tasks=tuple(task for plan in plans for task in plan.tasks),
    )


def _score_forecast(
    runs: Sequence[Run], settings: ScoreSettings, version: str, wanted: int, present: int
) -> Forecast:
    rows = [row for run in runs for row in _scores(run, settings.reward.reward, version)]
    return Forecast(
        unit="scores",
        wanted=wanted,
        present=present,
        rate=Rate.measured([row["seconds"] for row in rows], "scores of this version", _UNMEASURED_SCORES),
        footprint=_score_footprint(runs, settings),
        workers=settings.workers,
        gpus_per_worker=settings.gpus_per_worker,
    )


def _alike(run: Run, model: ModelRef, sampler: SamplerSettings) -> list[dict[str, Any]]:
    """The candidates of the same model and settings, whatever their adapter."""
    columns = ["candidate_id", "prompt_id", "model", "revision", "sampler", "seconds", "status"]
    table = run.rows("candidates", [*columns, "video_uri", "latent_uri"])
    wanted = {"model": model.name, "revision": model.revision, "sampler": canonical_json(sampler.as_dict())}
    for name, value in (wanted | {"status": "ok"}).items():
        table = table.filter(pc.equal(table[name], value))
    return list(table.to_pylist())


def _scores(run: Run, reward: str, version: str) -> list[dict[str, Any]]:
    table = run.rows("scores", ["reward", "reward_version", "seconds"])
    for name, value in (("reward", reward), ("reward_version", version)):
        table = table.filter(pc.equal(table[name], value))
    return list(table.to_pylist())


def _sample_footprint(
    run: Run | None, sampler: SamplerSettings, model: ModelRef, alike: list[dict[str, Any]], prompts: int
) -> Footprint:
    media = [] if run is None else [_media_bytes(run, row) for row in _spread(alike)]
    whole = [one for one in media if one]
    if run is not None and whole:
        conditions = [_file_bytes(run, run.condition_uri(row["prompt_id"])) for row in _spread(alike)]
        once = prompts * sum(conditions) / len(conditions)
        source = f"as the files of {len(whole)} candidates of these settings"
        return Footprint(each=sum(whole) / len(whole), once=once, source=source)
    return _footprint_by_size(sampler, model, prompts)


def _footprint_by_size(sampler: SamplerSettings, model: ModelRef, prompts: int) -> Footprint:
    sizes = model_sizes(model, sampler)
    if sizes is None:
        return Footprint(each=None, source=f"nothing measured, and {model.path / 'vae'} names no latent size")
    return Footprint(
        each=sizes.latents + sizes.video,
        once=prompts * sizes.condition,
        source="from sizes; videos within four times of it, as their pictures are soft or grainy",
    )


def _score_footprint(runs: Sequence[Run], settings: ScoreSettings) -> Footprint:
    for run in runs:
        files = shard_files(run.shard_dir("scores"))
        rows = run.rows("scores", ["candidate_id"]).num_rows
        if rows:
            size = sum(path.stat().st_size for path in files)
            return Footprint(each=size / rows, source=f"as the {rows:,} scores of {run.path}")
    frames = getattr(settings.reward.reward_options(), "frames", 0)
    return Footprint(each=_SCORE_BYTES + _SCORE_FRAME_BYTES * frames, source="from the number of frames")


def _rows_of(result: PairResult) -> pa.Table:
    if result.rows is None:
        raise ValueError("these pairs are written: forecast the result of run_pair(..., write=False)")
    return result.rows


def _pair_footprint(run: Run, result: PairResult, index_only: bool) -> Footprint:
    if index_only:
        return Footprint(each=500, source="rows without tensors")
    rows = _spread(_rows_of(result).select(["prompt_id", "winner_id", "loser_id"]).to_pylist())
    sizes = [
        _file_bytes(run, run.condition_uri(row["prompt_id"]))
        + _file_bytes(run, run.latent_uri(row["winner_id"]))
        + _file_bytes(run, run.latent_uri(row["loser_id"]))
        for row in rows
    ]
    return Footprint(each=sum(sizes) / len(sizes), source=f"as the tensors of {len(sizes)} of them")


def _spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many rows, evenly taken: a look at every file of a large run would take minutes."""
    return rows[:: max(1, -(-len(rows) // _MEASURED_FILES))]


def _media_bytes(run: Run, row: dict[str, Any]) -> int:
    return sum(_file_bytes(run, row[name]) for name in ("video_uri", "latent_uri") if row[name])


def _file_bytes(run: Run, uri: str) -> int:
    path = run.resolve(uri)
    return path.stat().st_size if path.is_file() else 0
