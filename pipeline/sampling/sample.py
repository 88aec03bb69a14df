"""gpa sample: which candidates are wanted, which are missing, and the tasks that make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.components import require_components
from pipeline.damage import damaged_candidates, mend_candidates, mend_tables
from pipeline.engine.runners import Summary, execute, make_runner
from pipeline.engine.stage import Progress, Resources, Silent
from pipeline.models import PACKAGED, AdapterRef, ModelRef, resolve_adapter, resolve_model
from pipeline.sampling.fit import require_fit
from pipeline.sampling.prompt_length import LongPrompt, long_prompts, tell_long_prompts
from pipeline.sampling.prompts import HeldTexts, PromptItem, read_prompts
from pipeline.sampling.samplers import first_frame
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from pipeline.sampling.splits import SceneSplits, SplitBy, told_splits
from pipeline.sampling.tasks import SampleTask
from pipeline.sampling.world_prompts import prompts_of_world
from pipeline.telling import tell_import
from storage.errors import UserError
from storage.media.external_files import Refused
from storage.media.pictures import write_image
from storage.media.video import is_whole
from storage.run import Run
from storage.tables.ids import Split, candidate_seed, content_id
from storage.tables.records import Prompt
from storage.tables.shards import write_shard
from storage.upkeep.repair import MEDIA_FOLDERS, sweep_leftovers

if TYPE_CHECKING:
    from pipeline.sampling.stage import SampleStage


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """What is missing: prompts with their rows, and the tasks that make the missing candidates.

    Candidates whose files are damaged are missing. `of_world` is whether model and prompts are the embedded
    world's, which fit together. `splits` says how prompts of a file fall into splits.
    """

    model: ModelRef
    adapter: AdapterRef | None
    prompts: int
    wanted: int
    tasks: tuple[SampleTask, ...]
    of_world: bool = False
    splits: str = ""

    @property
    def ids(self) -> set[str]:
        """The missing candidates."""
        return {name for task in self.tasks for name in task.ids}

    def long_prompts(self, settings: SampleSettings) -> list[LongPrompt]:
        """Of the prompts with missing candidates, those of which the model does not see the end."""
        return long_prompts(self.model, settings.sampler.max_sequence_length, self._open)

    def tell_long_prompts(self, settings: SampleSettings) -> None:
        """Warn of those, or raise UserError when the settings say so."""
        limit = settings.sampler.max_sequence_length
        tell_long_prompts(self.model, limit, self._open, strict=settings.strict_prompts)

    @property
    def _open(self) -> list[Prompt]:
        prompts = {task.prompt.prompt_id: task.prompt for task in self.tasks}
        return [] if self.of_world else list(prompts.values())


@dataclass(kw_only=True)
class _Prompts:
    """Makes rows of prompts, as the run writes them that has them; when `write`, writes what it lacks.

    `split_by` None leaves scenes and splits as they are.
    """

    run: Run | None
    write: bool
    split_by: SplitBy | None
    rows: list[Prompt] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    given: int = 0

    def admit(self, items: Iterable[PromptItem]) -> Iterator[Prompt]:
        columns = ["prompt_id", "scene_id", "split", "text"]
        table = [] if self.run is None else self.run.rows("prompts", columns).to_pylist()
        known = {row["prompt_id"] for row in table}
        held = HeldTexts((row["prompt_id"], row["text"]) for row in table)
        scenes = SceneSplits(self.split_by or "scene", table)
        for item in map(held.as_held, items):
            prompt_id = item.prompt_id
            uri = f"media/images/{prompt_id}.png" if self.run is None else self.run.image_uri(prompt_id)
            if self.split_by is not None:
                self.given += item.split is not None
                item = _placed(item, scenes)
            prompt = item.record(uri)
            self.splits.append(prompt.split)
            if self.run is not None and self.write:
                self._write(self.run, item, prompt, prompt_id not in known)
            yield prompt

    @property
    def told(self) -> str:
        """How the prompts of a file fall into splits, in words."""
        return "" if self.split_by is None else told_splits(self.splits, self.split_by, self.given)

    def _write(self, run: Run, item: PromptItem, prompt: Prompt, new: bool) -> None:
        if item.image_HW3 is not None and prompt.image_uri is not None:
            path = run.resolve(prompt.image_uri)
            if new or not is_whole(path):
                write_image(path, item.image_HW3)
        if new:
            self.rows.append(prompt)

    def flush(self) -> None:
        if self.run is not None and self.rows:
            write_shard(self.run.shard_dir("prompts"), "prompts", self.rows)


def _placed(item: PromptItem, scenes: SceneSplits) -> PromptItem:
    try:
        return scenes.place(item)
    except Refused as error:
        raise UserError(f"{item.where}: {error}") from error


def run_sample(
    run: Run,
    settings: SampleSettings,
    *,
    progress: Progress | None = None,
    before_work: Callable[[SamplePlan], None] | None = None,
    tell: bool = True,
) -> Summary:
    """Sample every missing candidate. The same call again does only what is missing.

    Prompts of which the model does not see the end are told, unless the caller has.

    What was damaged since it was written counts as missing: shards that cannot be read are put aside.

    `before_work` is called when input and run have been found good, before the first candidate.

    Raises UserError for bad input, for a run that another model sampled, and when another process samples
    into it.
    """
    mend_sampled(run, settings)
    with run.lock("sample"):
        sweep_leftovers(run, "prompts", "candidates", *MEDIA_FOLDERS)
        plan = plan_told(settings, run) if tell else plan_sample(settings, run)
        if before_work is not None:
            before_work(plan)
        if not plan.tasks:
            return Summary(wanted=plan.wanted, present=plan.wanted)
        require_components(plan.model)
        tell_import("torch")
        stage = sample_stage(run, settings, plan)
        runner = make_runner(settings)
        return execute(
            run, stage, plan.tasks, runner=runner, progress=progress or Silent(), wanted=plan.wanted
        )


def plan_told(settings: SampleSettings, run: Run) -> SamplePlan:
    """The plan of what is to be sampled now, with its prompts in the run; says which of them are too long.

    Raises UserError as `plan_sample`, and for long prompts when the settings are strict: nothing is written
    then.
    """
    if settings.strict_prompts:
        plan_sample(settings, run, write=False).tell_long_prompts(settings)
        return plan_sample(settings, run)
    plan = plan_sample(settings, run)
    plan.tell_long_prompts(settings)
    return plan


def mend_sampled(run: Run, settings: SampleSettings) -> None:
    """Put aside what was damaged since it was written, as far as these settings make it again."""
    mend_tables(run, "sample", "prompts", "candidates", "rejects")
    mend_candidates(run, "sample", lambda: plan_sample(settings, run, write=False).ids)


def sample_stage(run: Run, settings: SampleSettings, plan: SamplePlan) -> SampleStage:
    """The stage that does the tasks of a plan."""
    from pipeline.sampling.stage import SampleStage  # with torch, which a run that lacks nothing does without

    return SampleStage(
        run_path=run.path.absolute(),
        model=plan.model,
        settings=settings.sampler,
        adapter=plan.adapter,
        execution=settings.execution,
        resources=Resources(gpus=settings.gpus_per_worker),
    )


def plan_sample(
    settings: SampleSettings, run: Run | None, *, write: bool = True, whole: bool = False
) -> SamplePlan:
    """What is wanted and what of it is missing; when `whole`, as if no candidate were there.

    Writes the prompts, rows and first frames, into the run when `write`. A prompt that the run holds in
    another writing of its text keeps its id. Raises UserError for bad input and for a run that was sampled by
    another model or at another size.
    """
    model = resolve_model(settings.model, settings.revision)
    require_fit(model, settings.sampler)
    adapter = None if settings.adapter is None else resolve_adapter(settings.adapter, model)
    if run is not None:
        run.require_model(model.name, model.revision)
        require_same_conditions(run, settings.sampler)
    have: set[str] = set()
    if run is not None and not whole:
        have = set(run.rows("candidates", ["candidate_id"])["candidate_id"].to_pylist())
        if not write:
            # Before it writes, run_sample has dropped them.
            have -= damaged_candidates(run)
    own = settings.prompts is not None
    placed = not own or settings.only is not None
    prompts = _Prompts(run=run, write=write, split_by=None if placed else settings.split_by)
    tasks: list[SampleTask] = []
    count = 0
    for prompt in prompts.admit(_items(settings, model, run)):
        count += 1
        tasks += _missing(prompt, model, adapter, settings, have)
    prompts.flush()
    wanted = count * settings.candidates
    return SamplePlan(
        model=model,
        adapter=adapter,
        prompts=count,
        wanted=wanted,
        tasks=tuple(tasks),
        of_world=not own and settings.model in PACKAGED,
        splits=prompts.told,
    )


def candidate_id(
    model: ModelRef, adapter: AdapterRef | None, prompt_id: str, sampler: SamplerSettings, seed: int
) -> str:
    """The id of a candidate: everything that decides what it looks like."""
    adapter_id = None if adapter is None else adapter.id
    return content_id("candidate", model.name, model.revision, adapter_id, prompt_id, sampler.as_dict(), seed)


def require_same_conditions(run: Run, sampler: SamplerSettings) -> None:
    """A run keeps one condition per prompt, which candidates of another size or precision would not share.

    Raises UserError for those.
    """
    wanted = SamplerSettings.of_condition(sampler.as_dict())
    for text in run.rows("candidates", ["sampler"])["sampler"].unique().to_pylist():
        values = json.loads(text)
        if "height" not in values:
            # Imported without a model: what its prompt is given was not made yet.
            continue
        held = SamplerSettings.of_condition(values)
        for name, value in wanted.items():
            if held[name] != value:
                raise UserError(
                    f"{run.path} holds candidates sampled with {name} {held[name]}, this command has "
                    f"{value}: give the same value, or another run directory"
                )


def _items(settings: SampleSettings, model: ModelRef, run: Run | None) -> Iterator[PromptItem]:
    kind = first_frame(model)
    if settings.prompts is not None:
        items = read_prompts(settings.prompts, image_required=kind == "required", limit=settings.limit)
        items = _alike(items, model) if kind == "optional" else items
    else:
        count = settings.num_prompts if settings.limit is None else min(settings.limit, settings.num_prompts)
        items = prompts_of_world(settings, run, count)
    return items if settings.only is None else _only(items, settings.only)


def _only(items: Iterator[PromptItem], only: Mapping[str, tuple[str, Split]]) -> Iterator[PromptItem]:
    """Those of the prompts, in the scene and the split that they are said to be in."""
    for item in items:
        found = only.get(item.prompt_id)
        if found is not None:
            yield replace(item, scene_id=found[0], split=found[1])


def _alike(items: Iterator[PromptItem], model: ModelRef) -> Iterator[PromptItem]:
    """The prompts, all of which or none of which have a first frame: their pairs train together."""
    with_image: bool | None = None
    for item in items:
        has = item.image_HW3 is not None
        if with_image not in {None, has}:
            first, other = ("a", "no") if with_image else ("no", "a")
            raise UserError(
                f"the first prompt has {first} first frame and {item.text!r} has {other} first frame; model "
                f"{model.name!r} takes either, but one run is of one kind: give every prompt an image or none"
            )
        with_image = has
        yield item


def _missing(
    prompt: Prompt, model: ModelRef, adapter: AdapterRef | None, settings: SampleSettings, have: set[str]
) -> Iterator[SampleTask]:
    """The tasks of a prompt: fixed chunks of indices, without what is there already."""
    for start in range(0, settings.candidates, settings.batch):
        seeds = {}
        for index in range(start, min(start + settings.batch, settings.candidates)):
            seed = candidate_seed(settings.seed, prompt.prompt_id, index)
            name = candidate_id(model, adapter, prompt.prompt_id, settings.sampler, seed)
            if name not in have:
                seeds[name] = seed
        if seeds:
            yield SampleTask(prompt=prompt, ids=tuple(seeds), seeds=tuple(seeds.values()))
