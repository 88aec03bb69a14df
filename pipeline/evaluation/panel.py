"""The judges of an evaluation: who judges, which judgements are missing, what they say, and its header.

The true clips of the embedded world's prompts are judged beside those of the models. What a perfect model
would score says where a measure without a better direction should lie: an aligned model that moves less than
its base may have come nearer to the truth, or gone further from it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pipeline.damage import mend_tables
from pipeline.engine.runners import Summary, execute, make_runner
from pipeline.engine.stage import Progress, Resources, Silent
from pipeline.engine.worker_settings import WorkerSettings
from pipeline.evaluation.adapters import TRUTH
from pipeline.evaluation.held_out import PromptUse
from pipeline.evaluation.judges.epipolar import EpipolarJudge
from pipeline.evaluation.judges.geometry import GeometryJudge
from pipeline.evaluation.judges.judge import (
    JUDGES,
    NO_JUDGE,
    ClipJudge,
    JudgeChoice,
    Measure,
    require_choices,
)
from pipeline.evaluation.judges.pictures import PictureJudge
from pipeline.evaluation.judges.world import AGAINST_TRUTH, WorldJudge, true_clip, world_prompt
from pipeline.evaluation.stage import JudgeItem, JudgeStage, JudgeTask
from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryInfo
from storage.hub.provenance import pair_provenance
from storage.judgements import read_judgements
from storage.media.video import is_whole, write_video
from storage.run import Run
from storage.upkeep.repair import sweep_leftovers


def true_clips(inner: Run, clips: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A clip like those of the models for every prompt of theirs that has a true one, its video written.

    They are no candidates: no model sampled them, and no reward scores them. The seed is 0.
    """
    found = {}
    for clip in clips:
        prompt = clip["prompt"]
        world = world_prompt(prompt["text"], prompt["metadata"])
        if world is None or clip["prompt_id"] in found:
            continue
        name = f"{TRUTH}-{clip['prompt_id']}"
        uri = inner.video_uri(name)
        if not is_whole(inner.resolve(uri)):
            frames_THW3 = (true_clip(world) * 255).round().byte().numpy()
            write_video(inner.resolve(uri), frames_THW3, clip["fps"])
        shared = {key: clip[key] for key in ("prompt_id", "prompt", "fps")}
        own = {"candidate_id": name, "model_name": TRUTH, "video_uri": uri, "seed": 0, "scored": {}}
        found[clip["prompt_id"]] = shared | own
    return list(found.values())


def truth_means(clips: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over prompts of what was measured of true clips, by measure.

    Without the measures that compare a clip with the true one.
    """
    values = defaultdict(list)
    for clip in clips:
        for name, value in clip["measures"].items():
            if value is not None and math.isfinite(value) and name not in AGAINST_TRUTH:
                values[name].append(value)
    return {name: sum(each) / len(each) for name, each in values.items()}


_BATCH = 8  # clips a task: what a kill can lose


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The judges of an evaluation, without their weights."""

    judges: tuple[ClipJudge, ...]

    @classmethod
    def of(cls, choices: Sequence[JudgeChoice], *, model: str, frames: int, world: bool) -> Panel:
        """Those that judge every clip, those of the world's prompts when `world`, and those chosen.

        model: the base, whose faults the world's referee must know; frames: how many of a clip a geometry
        model sees. Raises UserError for a choice that makes no sense, RewardError for missing weights.
        """
        require_choices(choices)
        judges: list[ClipJudge] = [WorldJudge(model)] if world else []
        for choice in choices:
            if choice.is_geometry:
                judges.append(_geometry(choice, frames))
            elif choice.name != NO_JUDGE:
                judges.append(JUDGES[choice.name].make(choice.model))
        return cls(judges=(*judges, EpipolarJudge(frames), PictureJudge()))

    @property
    def geometry(self) -> GeometryJudge | None:
        """The judge with a geometry model, if any."""
        return next((judge for judge in self.judges if isinstance(judge, GeometryJudge)), None)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All that is measured."""
        return tuple(measure for judge in self.judges for measure in judge.measures)

    @property
    def versions(self) -> dict[str, str]:
        """The version of every judge by its name."""
        return {judge.name: judge.version for judge in self.judges}


def require_judge(choice: JudgeChoice) -> None:
    """Raise RewardError when the weights of a judge are missing."""
    if choice.is_geometry:
        _geometry(choice, 2)
    elif choice.name != NO_JUDGE:
        JUDGES[choice.name].make(choice.model)


def _geometry(choice: JudgeChoice, frames: int) -> GeometryJudge:
    try:
        return GeometryJudge(choice.name, choice.model, frames)
    except RewardError as error:
        raise RewardError(
            f"judge {choice.name}: {error}; or evaluate without: `judges` {NO_JUDGE}"
        ) from error


def run_judge(
    run: Run,
    panel: Panel,
    clips: Sequence[Mapping[str, Any]],
    settings: WorkerSettings,
    *,
    progress: Progress | None = None,
) -> tuple[dict[str, dict[str, float | None]], Summary]:
    """Measure what is missing of the clips: values by candidate and measure, and the count.

    Clips are rows of candidates with the row of their prompt under `prompt`. Raises UserError when another
    process judges this evaluation.
    """
    mend_tables(run, "judge", "judgements", "rejects")
    with run.lock("judge"):
        sweep_leftovers(run, "judgements", "rejects")
        tasks = _plan_judge(run, panel, clips)
        needed = {name for task in tasks for item in task.items for name in item.judges}
        stage = JudgeStage(
            run_path=run.path.absolute(),
            judges=tuple(judge for judge in panel.judges if judge.name in needed),
            resources=Resources(gpus=settings.gpus_per_worker),
        )
        wanted = len({clip["candidate_id"] for clip in clips})
        summary = execute(
            run, stage, tasks, runner=make_runner(settings), progress=progress or Silent(), wanted=wanted
        )
    held = read_judgements(run, panel.versions)
    values = {
        name: {measure: value for found in by_judge.values() for measure, value in found.items()}
        for name, by_judge in held.items()
    }
    return values, summary


def _plan_judge(run: Run, panel: Panel, clips: Sequence[Mapping[str, Any]]) -> list[JudgeTask]:
    """The tasks that measure what no judge of these versions has: chunks of a prompt's clips."""
    held = read_judgements(run, panel.versions)
    ordered = sorted(clips, key=lambda clip: (clip["prompt_id"], clip["candidate_id"]))
    tasks = []
    for _, group in groupby(ordered, key=lambda clip: clip["prompt_id"]):
        of_prompt = list(group)
        items = [item for clip in of_prompt if (item := _item(clip, panel, held)).judges]
        prompt = of_prompt[0]["prompt"]
        tasks += [
            JudgeTask(
                text=prompt["text"],
                metadata=prompt["metadata"] or "{}",
                items=tuple(items[start : start + _BATCH]),
            )
            for start in range(0, len(items), _BATCH)
        ]
    return tasks


def _item(clip: Mapping[str, Any], panel: Panel, held: Mapping[str, Mapping[str, Any]]) -> JudgeItem:
    have = held.get(clip["candidate_id"], {})
    return JudgeItem(
        candidate_id=clip["candidate_id"],
        video_uri=clip["video_uri"],
        fps=clip["fps"],
        judges=tuple(judge.name for judge in panel.judges if judge.name not in have),
    )


@dataclass(frozen=True, kw_only=True)
class JudgeLine:
    """A judge as the table names it."""

    name: str
    version: str
    license: str


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands above the tables.

    `prompts` says whether the prompts are held out. `independent` is whether no reward used the geometry that
    judges; None without a geometry judge. `geometry` and `rewarded_by` are models with their revisions.
    """

    judges: tuple[JudgeLine, ...]
    geometry: str | None
    rewarded_by: tuple[str, ...]
    independent: bool | None
    min_motion: float
    prompts: PromptUse
    notes: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The judge in a few words."""
        if self.geometry is None:
            return "no geometry judge"
        independent = "independent" if self.independent else "not independent"
        return f"judge {self.geometry.partition(' ')[0]} ({independent})"

    def lines(self) -> list[str]:
        """On what prompts, and who judged, in full."""
        rewarded = ", ".join(self.rewarded_by) or "no geometry model"
        if self.geometry is None:
            lines = ["no geometry judge: no MVCS, 3DCS, motion, and no filtered table"]
        elif self.independent:
            lines = [f"geometry judge: {self.geometry}; independent, the reward is by {rewarded}"]
        else:
            lines = [f"geometry judge: {self.geometry}; not independent, the reward is by the same model"]
        others = [f"{one.name} {one.version} (licence {one.license})" for one in self.judges]
        return [*self.prompts.lines(), *lines, f"judges: {', '.join(others)}", *self.notes]


def header_of(
    panel: Panel,
    rewards: Sequence[GeometryInfo],
    run: Run,
    min_motion: float,
    reward: str,
    prompts: PromptUse,
) -> Header:
    """The header of an evaluation in `run`, whose pairs say which geometry the training reward used.

    rewards: the geometry of the reward that the evaluation itself is scored by.
    """
    sources: dict[str, str] = {one.revision: f"{one.model} at {one.revision}" for one in rewards}
    provenance = pair_provenance(run, run.shard_dir("pairs"), None, videos=False)
    for source in () if provenance is None else provenance.geometry:
        sources.setdefault(source.revision or "", f"{source.model} at {source.revision}")
    judge = panel.geometry
    trained = set() if provenance is None else {name for name, _ in provenance.rewards}
    return Header(
        judges=tuple(
            JudgeLine(name=one.name, version=one.version, license=one.license) for one in panel.judges
        ),
        geometry=None if judge is None else _named(judge.geometry),
        rewarded_by=tuple(sorted(sources.values())),
        independent=None if judge is None else judge.geometry.revision not in sources,
        min_motion=min_motion,
        prompts=prompts,
        notes=_notes(panel, trained | {reward}),
    )


def _named(one: GeometryInfo) -> str:
    return f"{one.model} at {one.revision} (licence {one.license})"


def _notes(panel: Panel, rewards: set[str]) -> tuple[str, ...]:
    notes = [] if panel.geometry is None or panel.geometry.note is None else [panel.geometry.note]
    if "epipolar" in rewards:
        notes.append("the epipolar column is not independent: the reward is of the same kind")
    return tuple(notes)
