"""Which prompts an evaluation takes, those of its split that no adapter was trained on, and what it says.

Prompts that an adapter was trained on are taken only where that is asked for, and then everything that is
written says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from pipeline.evaluation.adapters import NamedAdapter, groups
from pipeline.models import resolve_model
from pipeline.sampling.prompts import HeldTexts, PromptItem, read_prompts
from pipeline.sampling.samplers import first_frame
from pipeline.sampling.settings import SampleSettings
from pipeline.sampling.splits import SceneSplits
from pipeline.sampling.world_prompts import prompts_of_world
from pipeline.world.clips import world_keys
from storage.errors import FieldError, UserError
from storage.media.external_files import Refused
from storage.run import Run
from storage.tables.ids import Split
from storage.trained_on import TrainedOn, trained_on

Status: TypeAlias = Literal["held-out", "seen", "unknown"]
_BY = {"scene": "scene", "content": "first frame or caption", "prompt": "prompt"}


@dataclass(frozen=True, kw_only=True)
class PromptUse:
    """What is said of the prompts: whether they are held out, and what was left out.

    `seen` counts by adapter the prompts that it was trained on, where there are any; `unknown` are the
    adapters of which it is not known what they were trained on; both name groups too. `other_splits` counts
    the prompts of one's own that were left out because of their split, `left_out` those that an adapter was
    trained on, by what told it.
    """

    status: Status
    split: str | None
    seen: Mapping[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    other_splits: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def words(self, count: int, *names: str) -> str:
        """So many prompts, as these adapters (none: all) have to do with them."""
        seen = max((self.seen.get(name, 0) for name in names or self.seen), default=0)
        if seen:
            some = f", {seen} of them prompts" if seen < count else ""
            return f"{count} prompts{some} seen in training"
        if any(name in self.unknown for name in names or self.unknown):
            return f"{count} prompts (whether seen in training is not known)"
        return f"{count} held-out prompts"

    def lines(self) -> list[str]:
        """The same in full."""
        of = "of every split" if self.split is None else f"of split {self.split}"
        lines = [f"prompts: {of}, on none of which an adapter was trained"] * (self.status == "held-out")
        for name, count in self.seen.items():
            lines.append(f"prompts: {of}, prompts seen in training: {name} was trained on {count} of them")
        for name in self.unknown:
            lines.append(
                f"what {name} was trained on is not known: the prompts, {of}, may have been seen in training"
            )
        told = [
            f"{count} that an adapter was trained on (by {name})" for name, count in self.left_out.items()
        ]
        told += [f"{self.other_splits} of other splits"] if self.other_splits else []
        return lines + ([f"prompts left out: {', '.join(told)}"] if told else [])


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How the prompts of an evaluation are sampled, what is said of them, and the ids of those trained on."""

    sample: SampleSettings
    use: PromptUse
    trained: frozenset[str]


@dataclass(kw_only=True)
class _Count:
    """What became of the prompts that were looked at."""

    other_splits: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    taken: dict[str, tuple[str, Split]] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)


def choose_prompts(
    run: Run,
    sample: SampleSettings,
    adapters: tuple[NamedAdapter, ...],
    *,
    any_split: bool,
    also_trained: bool,
) -> Chosen:
    """The prompts that are evaluated on. Raises UserError where none is left, and for bad input.

    `any_split` takes prompts of one's own whatever their split.
    """
    if any_split and sample.prompts is None:
        raise FieldError("split", "train, val or test for the world's prompts", "all", "give `prompts` FILE")
    known = {one.label: trained_on(one.path) for one in adapters}
    count = _Count()
    whole = sample.prompts is None and _none_trained(sample, known)
    if not whole:
        split = None if any_split else sample.split
        for item in _items(run, sample):
            assert item.scene_id is not None
            assert item.split is not None
            by = _trained_by(item, known)
            if split is not None and item.split != split:
                count.other_splits += 1
            elif by and not also_trained:
                count.left_out[_BY[next(iter(by.values()))]] += 1
            else:
                count.taken[item.prompt_id] = (item.scene_id, item.split)
                count.seen.update(by.keys())
                count.trained.update([item.prompt_id] if by else [])
        if not count.taken:
            raise _nothing_left(sample, count, split)
    named = groups(adapters)
    unknown = [label for label, found in known.items() if found is None or not found.complete]
    unknown += [group for group, members in named.items() if set(members) & set(unknown)]
    seen = dict(count.seen)
    for group, members in named.items():
        if set(members) & set(count.seen):
            seen[group] = max(count.seen[one] for one in members)
    use = PromptUse(
        status="seen" if seen else "unknown" if unknown else "held-out",
        split=None if any_split else sample.split,
        seen=seen,
        unknown=tuple(unknown),
        other_splits=count.other_splits,
        left_out=dict(count.left_out),
    )
    return Chosen(
        sample=sample if whole else replace(sample, only=count.taken),
        use=use,
        trained=frozenset(count.trained),
    )


def _none_trained(sample: SampleSettings, known: Mapping[str, TrainedOn | None]) -> bool:
    """Whether no scene of the world that is asked for was trained on: then none needs to be drawn."""
    keys = world_keys(sample.split, sample.num_prompts)
    return not any(
        found.knows(prompt_id="", scene_id=scene, content=scene)
        for scene, _, _ in keys
        for found in known.values()
        if found is not None
    )


def _items(run: Run, sample: SampleSettings) -> Iterator[PromptItem]:
    """The prompts that are asked for, as they come from their file, each with its scene and split."""
    if sample.prompts is None:
        for item in prompts_of_world(sample, run, sample.num_prompts):
            yield replace(item, split=sample.split)
        return
    table = run.rows("prompts", ["prompt_id", "scene_id", "split", "text"]).to_pylist()
    held = HeldTexts((row["prompt_id"], row["text"]) for row in table)
    # As the run has placed them, else by their file or by hash.
    scenes = SceneSplits("scene", table)
    needed = first_frame(resolve_model(sample.model, sample.revision)) == "required"
    for item in read_prompts(sample.prompts, image_required=needed, limit=sample.limit):
        try:
            placed = scenes.place(held.as_held(item))
        except Refused as error:
            raise UserError(f"{item.where}: {error}") from error
        yield replace(item, scene_id=placed.scene_id, split=placed.split)


def _trained_by(item: PromptItem, known: Mapping[str, TrainedOn | None]) -> dict[str, str]:
    """The adapters that were trained on a prompt, and by what each knows it."""
    prompt_id, content = item.prompt_id, item.content
    found = {
        label: one.knows(prompt_id=prompt_id, scene_id=item.scene_id or content, content=content)
        for label, one in known.items()
        if one is not None
    }
    return {label: by for label, by in found.items() if by is not None}


def _nothing_left(sample: SampleSettings, count: _Count, split: Split | None) -> UserError:
    source = "the world" if sample.prompts is None else str(sample.prompts)
    trained = count.left_out.total()
    told = [f"{count.other_splits} are of other splits than {split}"] if count.other_splits else []
    told += [f"{trained} were trained on"] if trained else []
    remedies = ["give `prompts` of other scenes" if sample.prompts is not None else "choose another `split`"]
    remedies += ["take those of every split (`split` all)"] if count.other_splits else []
    remedies += ["evaluate on what was trained on (`also_trained`), and have it said"] if trained else []
    total = count.other_splits + trained
    return UserError(
        f"no prompt of {source} is left to evaluate on: of {total}, {' and '.join(told)}; "
        f"{', or '.join(remedies)}"
    )
