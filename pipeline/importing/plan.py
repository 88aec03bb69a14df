"""gpa import: which videos of a source are wanted, which are missing, their prompts, and the cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from pipeline.forecast.forecast import Footprint, Forecast, Rate, model_sizes
from pipeline.importing.folders import VIDEOS, folder_entries
from pipeline.importing.manifest import FORMATS, Entry, manifest_entries, reject
from pipeline.importing.prompt_book import PromptBook
from pipeline.importing.tasks import Encoding, ImportItem, ImportTask
from pipeline.sampling.sample import require_same_conditions
from pipeline.sampling.samplers import first_frame
from pipeline.sampling.splits import SplitBy, told_splits
from storage.errors import UserError
from storage.media.external_files import Refused, file_sha256, show
from storage.media.foreign_video import VideoFacts, VideoLimits, inspect_video
from storage.run import Run
from storage.tables.ids import content_id
from storage.tables.records import NO_MODEL, NO_REVISION, Prompt, Reject


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """The videos that can be taken in, the tasks of those that are missing, and what is refused and why.

    `splits` says how the prompts fall into splits, `bytes` is the size of the missing videos.
    """

    prompts: int
    splits: str
    wanted: int
    bytes: int
    tasks: tuple[ImportTask, ...]
    rejects: tuple[Reject, ...]

    @property
    def open_prompts(self) -> list[Prompt]:
        """The prompts of the videos to take in."""
        return list({task.prompt.prompt_id: task.prompt for task in self.tasks}.values())

    @property
    def missing(self) -> int:
        """The number of videos to take in."""
        return sum(len(task.items) for task in self.tasks)


def plan_import(
    run: Run | None,
    source: Path,
    limits: VideoLimits,
    encoding: Encoding | None,
    *,
    allow_outside: bool = False,
    batch: int = 8,
    split_by: SplitBy = "scene",
    write: bool = True,
) -> ImportPlan:
    """Look at every video of a source, without decoding it.

    Writes their prompts, rows and first frames, into the run when `write`. Raises UserError
    for a source that is missing, of an unknown kind or without videos, and for a run of another model.
    """
    target = None if encoding is None else encoding.target
    planner = _Planner(
        run=run,
        limits=limits,
        encoding=encoding,
        book=PromptBook(run=run, limits=limits, target=target, split_by=split_by),
    )
    for listed in _entries(source, allow_outside):
        if isinstance(listed, Reject):
            planner.rejects.append(listed)
        else:
            planner.look_at(listed)
    if not planner.seen and not planner.rejects:
        raise UserError(
            f"{show(str(source))} holds no videos: a folder has PROMPT/SEED.mp4 ({', '.join(VIDEOS)}), "
            "a manifest a row for each"
        )
    tasks = tuple(planner.tasks(batch))
    if tasks and run is not None:
        _require_one_model(run, encoding)
    if write:
        planner.book.write(prompt_id for prompt_id, _ in planner.seen)
    prompts = {prompt_id for prompt_id, _ in planner.seen}
    splits = [planner.book.rows[prompt_id].split for prompt_id in prompts]
    return ImportPlan(
        prompts=len(prompts),
        splits=told_splits(splits, split_by, len(planner.book.given & prompts)),
        wanted=len(planner.seen),
        bytes=planner.bytes,
        tasks=tasks,
        rejects=tuple({(one.id, one.rule): one for one in planner.rejects}.values()),
    )


@dataclass(kw_only=True)
class _Planner:
    """Looks at one video after the other, and remembers what it saw."""

    run: Run | None
    limits: VideoLimits
    encoding: Encoding | None
    book: PromptBook
    rejects: list[Reject] = field(default_factory=list)
    # By prompt and seed: where the video is and its hash.
    seen: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    missing: dict[str, list[ImportItem]] = field(default_factory=dict)
    bytes: int = 0

    def __post_init__(self) -> None:
        self.there: set[str] = set()
        self.of_seed: dict[tuple[str, int], str] = {}
        self.have: set[str] = set()
        self.without_model: set[str] = set()
        if self.run is not None:
            rows = self.run.rows(
                "candidates", ["candidate_id", "prompt_id", "seed", "status", "latent_uri", "model"]
            ).to_pylist()
            good = [row for row in rows if row["status"] == "ok"]
            self.there = {row["candidate_id"] for row in good}
            self.of_seed = {(row["prompt_id"], row["seed"]): row["candidate_id"] for row in good}
            wants_latents = self.encoding is not None
            self.have = {row["candidate_id"] for row in good if row["latent_uri"] or not wants_latents}
            self.without_model = {row["candidate_id"] for row in good if row["model"] == NO_MODEL}
        self.with_image: bool | None = None

    def look_at(self, one: Entry) -> None:
        """Plan a video, or note why it is refused."""
        try:
            facts = inspect_video(one.path, self.limits)
            if self.encoding is not None:
                self.encoding.target.require(facts)
            self._require_first_frame(one)
            sha256 = file_sha256(one.path)
            prompt = self.book.prompt(one)
            self._require_new_seed(prompt, one, sha256)
            self._plan(prompt, one, facts, sha256)
        except Refused as error:
            self.rejects.append(reject(one.where, error))

    def tasks(self, batch: int) -> Iterator[ImportTask]:
        """What is missing, prompt by prompt in chunks of `batch`."""
        for prompt_id, items in self.missing.items():
            for start in range(0, len(items), batch):
                chunk = tuple(items[start : start + batch])
                yield ImportTask(prompt=self.book.rows[prompt_id], items=chunk)

    def _plan(self, prompt: Prompt, one: Entry, facts: VideoFacts, sha256: str) -> None:
        target = None if self.encoding is None else self.encoding.target
        parts: list[str | int | float] = [] if facts.plain else ["as shown"]
        as_shown = candidate_id(sha256, prompt.prompt_id, one.seed, *parts)
        if not facts.plain and candidate_id(sha256, prompt.prompt_id, one.seed) in self.there:
            raise Refused("as-stored", "is in the run as it is stored, not as it is shown: use a new run")
        if target is not None and facts.shape != target.shape:
            parts += [target.fit, *target.shape]
        if target is not None and not target.has_its_rate(facts):
            parts += ["fps", target.fps]
        name = candidate_id(sha256, prompt.prompt_id, one.seed, *parts)
        if name != as_shown and as_shown in self.without_model:
            raise Refused(
                "size", "is in the run at its own size and rate, without latents: use a new run to change it"
            )
        other = self.of_seed.get((prompt.prompt_id, one.seed), name)
        if other != name and name not in self.there:
            raise Refused(
                "duplicate-seed",
                f"has seed {one.seed} of this prompt, which the run holds as another video, or cut otherwise "
                f"({other}): number it differently, or use a new run",
            )
        self.seen[prompt.prompt_id, one.seed] = (one.where, sha256)
        if name in self.have:
            return
        self.bytes += one.path.stat().st_size
        self.missing.setdefault(prompt.prompt_id, []).append(
            ImportItem(
                id=name,
                where=one.where,
                file=one.file,
                caption=one.caption,
                path=one.path,
                sha256=sha256,
                seed=one.seed,
                facts=facts,
                again=bool(parts),
                metadata=one.metadata,
            )
        )

    def _require_new_seed(self, prompt: Prompt, one: Entry, sha256: str) -> None:
        if (prompt.prompt_id, one.seed) not in self.seen:
            return
        where, other = self.seen[prompt.prompt_id, one.seed]
        same = "the same video" if other == sha256 else "another video"
        raise Refused(
            "duplicate-seed",
            f"has seed {one.seed} of this prompt, which is {show(where)}, {same}: number the videos of a "
            "prompt differently",
        )

    def _require_first_frame(self, one: Entry) -> None:
        """A model that starts from a first frame needs one; one that takes either has all or none."""
        if self.encoding is None:
            return
        kind, given = first_frame(self.encoding.model), one.first_frame is not None
        if kind == "required" and not given:
            raise Refused(
                "no-first-frame",
                f"has no first frame, from which model {self.encoding.model.name!r} starts: add "
                "first_frame.png beside it, or first_frame to the manifest",
            )
        if kind == "optional":
            if self.with_image not in {None, given}:
                raise Refused(
                    "first-frames-differ",
                    f"has {'a' if given else 'no'} first frame, unlike those before it; a run is of one "
                    "kind: give every prompt a first frame, or none",
                )
            self.with_image = given


def candidate_id(sha256: str, prompt_id: str, seed: int, *done: str | int | float) -> str:
    """The id of an imported video: its bytes, prompt and seed, and what was done to it.

    The model that encodes it is no part of it, so that scores stay valid when latents are added.
    """
    return content_id("import", sha256, prompt_id, seed, list(done))


def _entries(source: Path, allow_outside: bool) -> Iterator[Entry | Reject]:
    if source.is_dir():
        return folder_entries(source, allow_outside)
    if not source.exists():
        raise UserError(f"{show(str(source))} does not exist: give a folder of videos or a manifest")
    if not source.is_file():
        raise UserError(f"{show(str(source))} is no folder and no manifest ({', '.join(FORMATS)}): give one")
    return manifest_entries(source, allow_outside)


def _require_one_model(run: Run, encoding: Encoding | None) -> None:
    """The candidates of a run train together, or not at all; imported ones may get their latents later."""
    name, revision = (
        (NO_MODEL, NO_REVISION) if encoding is None else (encoding.model.name, encoding.model.revision)
    )
    run.require_model(name, revision, besides=None if encoding is None else NO_MODEL)
    if encoding is not None:
        require_same_conditions(run, encoding.settings)


_UNMEASURED = "no video was imported like this yet"


def forecast_import(
    run: Run | None, plan: ImportPlan, encoding: Encoding | None, *, link: bool, workers: int, gpus: float
) -> Forecast:
    """Videos to take in; what is refused counts nowhere."""
    items = [item for task in plan.tasks for item in task.items]
    written = sum(item.path.stat().st_size for item in items if item.again or not link)
    each = written / plan.missing if plan.missing else 0.0
    source = "no copies of the files: they are linked" if link else "the files themselves"
    again = sum(item.again for item in items)
    if again:
        source += f"; {again:,} are written again, at several times their size"
    sizes = None if encoding is None else model_sizes(encoding.model, encoding.settings)
    if sizes is not None:
        each, source = each + sizes.latents, f"{source}; latents from sizes"
    return Forecast(
        unit="videos",
        wanted=plan.wanted,
        present=plan.wanted - plan.missing,
        rate=Rate.measured(_seconds(run, encoding), "videos imported like this", _UNMEASURED),
        footprint=Footprint(each=each, source=source),
        workers=workers,
        gpus_per_worker=gpus,
    )


def _seconds(run: Run | None, encoding: Encoding | None) -> list[float]:
    """Of the imported candidates that were encoded with this model, or with none."""
    if run is None:
        return []
    table = run.rows("candidates", ["latent_uri", "model", "sampler", "seconds"])
    if encoding is None:
        table = table.filter(pc.is_null(table["latent_uri"]))
    else:
        table = table.filter(pc.equal(table["model"], encoding.model.name))
    return [row["seconds"] for row in table.to_pylist() if "imported" in json.loads(row["sampler"])]
