"""What a plan of sampling consists of, apart from the stage that does it and imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from storage.tables.records import Prompt


@dataclass(frozen=True, kw_only=True)
class SampleTask:
    """Candidates of one prompt that are sampled in one batch; `seeds` go with `ids` one to one."""

    prompt: Prompt
    ids: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def key(self) -> str:
        """The first candidate's id."""
        return self.ids[0]

    def split(self) -> tuple[SampleTask, ...]:
        """A task for each candidate."""
        one_each = zip(self.ids, self.seeds, strict=True)
        return tuple(SampleTask(prompt=self.prompt, ids=(name,), seeds=(seed,)) for name, seed in one_each)
