"""Which split a prompt of one's own falls into: as its file says, as the run has its scene, else by hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from storage.media.external_files import Refused
from storage.tables.ids import SPLITS, Split, split_of
from storage.texts import short

if TYPE_CHECKING:
    from pipeline.sampling.prompts import PromptItem

SplitBy: TypeAlias = Literal["scene", "prompt", "source", "none"]
SPLIT_BY_HELP = (
    "Prompts fall into train, val and test by hash of their scene, of the prompt, or of metadata.source, or "
    "all into train; a split that the file gives holds."
)


class SceneSplits:
    """Places prompts, so that no scene is in two splits; by "prompt", every prompt is a scene of its own."""

    def __init__(self, by: SplitBy, held: Iterable[Mapping[str, Any]] = ()) -> None:
        """`held` are the prompts that the run has: rows with prompt_id, scene_id and split."""
        self._by = by
        self._held = {row["prompt_id"]: (row["scene_id"], row["split"]) for row in held}
        self._splits: dict[str, tuple[Split, str]] = {
            scene: (split, "the run") for scene, split in self._held.values()
        }

    def place(self, item: PromptItem) -> PromptItem:
        """The prompt with its scene and its split; the scene is that of the run, if it has the prompt.

        Raises Refused for a scene that would be in two splits, naming both lines, for a prompt that the run
        has in another, and for a missing source.
        """
        has = self._held.get(item.prompt_id)
        if has is not None and self._by != "prompt":
            item = replace(item, scene_id=has[0])
        placed = self._in_one_split(self._scene_of(item))
        if has is not None and (placed.scene_id, placed.split) != has:
            raise Refused(
                "conflict",
                f"the run has this prompt in split {has[1]}, by `split_by` {self._by} it falls into "
                f"{placed.split}: split as the run was split, or use another run",
            )
        return placed

    def _in_one_split(self, item: PromptItem) -> PromptItem:
        scene = item.scene_id or item.content
        held = self._splits.get(scene)
        # The hash of a scene is for those that nobody placed; another rule is a wish, as a given split is.
        wish = item.split or (self._by_rule(item, scene) if self._by != "scene" else None)
        split = wish or (held[0] if held else split_of(scene))
        if held is not None and split != held[0]:
            says = "says" if item.split else f"falls by {self._by} into"
            raise Refused(
                "conflict",
                f"{says} split {split}, but its scene {short(scene)} is in {held[0]} by {held[1]}: a scene "
                "has one split, make them agree",
            )
        self._splits.setdefault(scene, (split, item.where or "another line"))
        return replace(item, scene_id=scene, split=split)

    def _scene_of(self, item: PromptItem) -> PromptItem:
        if self._by != "prompt":
            return item
        # What the file calls its scene is kept, as something to ask for.
        kept = {} if item.scene_id is None else {"scene_id": item.scene_id}
        return replace(item, scene_id=item.prompt_id, metadata=kept | item.metadata)

    def _by_rule(self, item: PromptItem, scene: str) -> Split:
        if self._by == "none":
            return "train"
        if self._by == "prompt":
            return split_of(scene)
        source = item.metadata.get("source")
        if not isinstance(source, str) or not source:
            raise Refused(
                "no-source",
                f"metadata.source must be text, by which `split_by` source splits, got {short(source)}: name "
                "it, or split by another",
            )
        return split_of(f"source {source}")


def told_splits(splits: Iterable[str], by: SplitBy, given: int) -> str:
    """How prompts fall into splits, in words; `given` of them because the file says so."""
    counts = Counter(splits)
    parts = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)
    rule = "none: all train" if by == "none" else f"by hash of the {by}"
    if by == "scene":
        rule += "; --split-by none keeps all in train"
    why = (
        rule
        if not given
        else f"{given:,} as the file says, the others {rule}"
        if given < counts.total()
        else ""
    )
    return f"{counts.total():,} prompts: {parts} ({why or 'as the file says'})"
