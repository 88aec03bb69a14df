"""gpa evaluate: a base model against its adapters on held-out prompts, with the same seeds.

An evaluation is a run of its own inside the run (RUN/eval/NAME): the same stages sample and score it, and
judges measure its clips, so it resumes as they do. Who judges is in judge.py, how models are compared in
comparison.py, what is written of it in evaluation.py.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.damage import mend_tables
from pipeline.engine.stage import Progress, Silent
from pipeline.evaluation.adapters import BASE, NamedAdapter, groups, require_different
from pipeline.evaluation.contact_sheet import Strip, shows, write_contact_sheet
from pipeline.evaluation.held_out import Chosen, choose_prompts
from pipeline.evaluation.judges.judge import JudgeChoice
from pipeline.evaluation.judges.world import true_clip, world_prompt
from pipeline.evaluation.panel import Panel, header_of, require_judge, run_judge, true_clips, truth_means
from pipeline.evaluation.tables import Evaluation, Measured, make_tables, write_evaluation
from pipeline.models import resolve_adapter, resolve_model
from pipeline.requirements import require_all
from pipeline.sampling.fit import require_fit
from pipeline.sampling.prompt_length import tell_long_prompts
from pipeline.sampling.sample import plan_sample, run_sample
from pipeline.sampling.settings import SampleSettings
from pipeline.scoring.score import run_score
from pipeline.scoring.settings import ScoreSettings
from storage.errors import FieldError, UserError
from storage.judgements import EvaluatedClip, write_clips
from storage.media.video import read_video
from storage.run import RUN_FILE, Run
from storage.tables.ids import content_id
from storage.tables.records import Prompt

_SHEET_PROMPTS = 6
_Clips = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What `gpa evaluate` is asked for; `sample.adapter` is ignored, every adapter has its turn.

    Prompts are those of `sample.split`, of one's own whatever their split with `any_split`, without those
    that an adapter was trained on, unless `also_trained`. In the filtered tables, clips whose motion by the
    geometry judge is below `min_motion` on either side are left out on both.
    """

    sample: SampleSettings
    score: ScoreSettings
    adapters: tuple[NamedAdapter, ...]
    any_split: bool = False
    also_trained: bool = False
    judges: tuple[JudgeChoice, ...] = ()
    min_motion: float = 0.0
    name: str = "heldout"

    def __post_init__(self) -> None:
        require_different(self.adapters)
        if not 0 <= self.min_motion < math.inf:
            raise FieldError("min_motion", "0 or more", self.min_motion)

    def models(self) -> dict[str, SampleSettings]:
        """How each model samples, by the name in the table: the base, then the adapters."""
        return {BASE: self.sample.with_adapter(None)} | {
            one.label: self.sample.with_adapter(one.path, one.weight) for one in self.adapters
        }

    def chosen(self, run: Run) -> Chosen:
        """The prompts that are taken of those asked for. Raises UserError where none is left."""
        return choose_prompts(
            run, self.sample, self.adapters, any_split=self.any_split, also_trained=self.also_trained
        )

    def require_weights(self) -> None:
        """Raise, before anything is sampled, an error that names all weights that are missing."""
        require_all(
            self._require_models,
            self.score.reward.describe,
            *(partial(require_judge, choice) for choice in self.judges),
        )

    def _require_models(self) -> None:
        model = resolve_model(self.sample.model, self.sample.revision)
        require_fit(model, self.sample.sampler)
        require_all(*(partial(resolve_adapter, one.path, model) for one in self.adapters))

    def panel(self, prompts: Sequence[Prompt]) -> Panel:
        """Who judges clips of these prompts."""
        return Panel.of(
            self.judges,
            model=self.sample.model,
            frames=getattr(self.score.reward.reward_options(), "frames", 10),
            world=any(world_prompt(prompt.text, prompt.metadata) is not None for prompt in prompts),
        )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The candidates that an evaluation compares, by id the name of their model; and their prompts."""

    models: dict[str, str]
    prompts: tuple[Prompt, ...]


def wanted_clips(settings: EvaluateSettings, inner: Run | None) -> Wanted:
    """What would be sampled if the evaluation `inner` held no clip.

    Raises UserError for two models that are the same.
    """
    found: dict[str, str] = {}
    prompts: dict[str, Prompt] = {}
    for label, sample in settings.models().items():
        for task in plan_sample(sample, inner, write=False, whole=True).tasks:
            prompts[task.prompt.prompt_id] = task.prompt
            for candidate_id in task.ids:
                if found.setdefault(candidate_id, label) != label:
                    raise UserError(
                        f"{found[candidate_id]} and {label} hold the same weights: leave one of them out"
                    )
    return Wanted(models=found, prompts=tuple(prompts.values()))


def run_evaluate(
    run: Run, settings: EvaluateSettings, *, progress: Callable[[str], Progress] = lambda unit: Silent()
) -> Evaluation:
    """Sample, score and measure what is missing, then compare. The same call again gives the same files.

    Raises UserError for bad input, and when sampling or scoring left nothing to compare, RewardError for a
    judge whose weights are missing.
    """
    settings.require_weights()
    chosen = settings.chosen(run)
    settings = replace(settings, sample=chosen.sample)
    path = run.path / "eval" / settings.name
    there = Run.open(path) if (path / RUN_FILE).exists() else None
    if there is not None:
        mend_tables(there, "sample", "prompts")
    wanted = wanted_clips(settings, there)
    panel = settings.panel(wanted.prompts)
    if settings.sample.prompts is not None:
        model = resolve_model(settings.sample.model, settings.sample.revision)
        limit = settings.sample.sampler.max_sequence_length
        tell_long_prompts(model, limit, wanted.prompts, strict=settings.sample.strict_prompts)
    inner = Run.create_or_open(path)
    failed = 0
    for sample in settings.models().values():
        failed += run_sample(inner, sample, progress=progress("candidates"), tell=False).failed
    plan, _ = run_score(inner, settings.score, progress=progress("scores"))
    clips = _clips(inner, wanted, settings.score.reward.reward, plan.reward_version)
    truths = true_clips(inner, clips)
    judged, summary = run_judge(inner, panel, [*clips, *truths], settings.score, progress=progress("clips"))
    for clip in (*clips, *truths):
        clip["measures"] = clip["scored"] | judged.get(clip["candidate_id"], {})
    _write_rows(inner, [*clips, *truths], settings, panel)
    sheet = _write_sheet(inner, clips, chosen.trained)
    measured = _measured(clips)
    tables, filtered = make_tables(measured, panel.measures, groups(settings.adapters), settings.min_motion)
    result = Evaluation(
        directory=inner.path,
        header=header_of(
            panel,
            () if plan.geometry is None else (plan.geometry,),
            run,
            settings.min_motion,
            settings.score.reward.reward,
            chosen.use,
        ),
        measures=panel.measures,
        tables=tables,
        filtered=filtered,
        clips=len(clips),
        prompts=len({clip["prompt_id"] for clip in clips}),
        sheet=sheet,
        truth=truth_means(truths),
        failed=failed + summary.failed,
    )
    write_evaluation(result)
    return result


def _clips(inner: Run, wanted: Wanted, reward: str, version: str) -> list[dict[str, Any]]:
    """The wanted candidates that could be sampled, with prompt and score, by prompt, model and seed.

    A directory evaluated before with other adapters or prompts holds other candidates too: they stay out.
    """
    prompts = {row["prompt_id"]: row for row in inner.rows("prompts").to_pylist()}
    scores = {
        row["candidate_id"]: row
        for row in inner.rows("scores").to_pylist()
        if row["reward"] == reward and row["reward_version"] == version
    }
    rows = [
        row
        | {
            "model_name": wanted.models[row["candidate_id"]],
            "prompt": prompts[row["prompt_id"]],
            "scored": _scored(scores.get(row["candidate_id"], {})),
        }
        for row in inner.rows("candidates").to_pylist()
        if row["status"] == "ok" and row["candidate_id"] in wanted.models
    ]
    if not rows:
        raise UserError(f"no clip could be sampled in {inner.path}: see the reason column of its candidates")
    order = {name: position for position, name in enumerate(dict.fromkeys(wanted.models.values()))}
    return sorted(rows, key=lambda row: (row["prompt_id"], order[row["model_name"]], row["seed"]))


def _scored(score: Mapping[str, Any]) -> dict[str, float | None]:
    value = score.get("value")
    return {"error": None if value is None else -value, "reprojection": score.get("mse")}


def _write_rows(inner: Run, clips: _Clips, settings: EvaluateSettings, panel: Panel) -> None:
    adapters = {one.label: one for one in settings.adapters}
    model = resolve_model(settings.sample.model, settings.sample.revision)
    ids = {label: resolve_adapter(one.path, model).id for label, one in adapters.items()}
    rows = [
        EvaluatedClip(
            model_name=clip["model_name"],
            candidate_id=clip["candidate_id"],
            prompt_id=clip["prompt_id"],
            seed=clip["seed"],
            adapter=ids.get(clip["model_name"]),
            adapter_weight=adapters[clip["model_name"]].weight if clip["model_name"] in adapters else None,
            judges=panel.versions,
            measures=clip["measures"],
        )
        for clip in clips
    ]
    write_clips(inner, rows)


def _measured(clips: _Clips) -> Measured:
    """Values by model, measure, prompt and seed."""
    measured: Measured = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for clip in clips:
        for name, value in clip["measures"].items():
            by_prompt = measured[clip["model_name"]][name]
            by_prompt[clip["prompt_id"]][clip["seed"]] = math.nan if value is None else value
    return measured


def _write_sheet(inner: Run, clips: _Clips, trained: Collection[str]) -> Path:
    """The contact sheet; drawn, for which true clips are rendered, when it is not of these very videos.

    `trained` are the prompts that it says were seen in training.
    """
    chosen = _sheet_clips(clips)
    titles = {
        clip["prompt_id"]: f"{clip['prompt']['text']}{' (seen in training)' * (clip['prompt_id'] in trained)}"
        for group in chosen
        for clip in group
    }
    shown = [
        [titles[group[0]["prompt_id"]], [[_label(clip), _digest(inner, clip["video_uri"])] for clip in group]]
        for group in chosen
    ]
    path, content = inner.path / "contact-sheet.png", content_id("contact sheet", shown)
    if not shows(path, content):
        strips = [(titles[group[0]["prompt_id"]], _strips(inner, group)) for group in chosen]
        write_contact_sheet(path, strips, content)
    return path


def _sheet_clips(clips: _Clips) -> list[list[dict[str, Any]]]:
    """Of the first prompts the clips of the first seed, one of every model."""
    found: dict[str, list[dict[str, Any]]] = {}
    for clip in clips:
        if clip["prompt_id"] not in found and len(found) == _SHEET_PROMPTS:
            break
        group = found.setdefault(clip["prompt_id"], [])
        if not group or clip["seed"] == group[0]["seed"]:
            group.append(clip)
    return list(found.values())


def _strips(inner: Run, group: _Clips) -> list[Strip]:
    strips = [
        Strip(label=_label(clip), frames_THW3=read_video(inner.resolve(clip["video_uri"]))) for clip in group
    ]
    return _truth_strips(group[0]) + strips


def _label(clip: Mapping[str, Any]) -> str:
    error = clip["scored"]["error"]
    return f"{clip['model_name']}\nerror {math.nan if error is None else error:.4g}"


def _digest(inner: Run, video_uri: str) -> str:
    with inner.resolve(video_uri).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _truth_strips(clip: Mapping[str, Any]) -> list[Strip]:
    prompt = world_prompt(clip["prompt"]["text"], clip["prompt"]["metadata"])
    if prompt is None:
        return []
    frames = (true_clip(prompt) * 255).round().byte().numpy()
    return [Strip(label="ground truth", frames_THW3=frames)]
