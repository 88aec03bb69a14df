"""What a plan of scoring consists of, apart from the stage that does it and imports torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """Candidates to score; `video_uris` go with `ids` one to one."""

    ids: tuple[str, ...]
    video_uris: tuple[str, ...]

    @property
    def key(self) -> str:
        """The first candidate's id."""
        return self.ids[0]

    def split(self) -> tuple[ScoreTask, ...]:
        """A task for each candidate."""
        one_each = zip(self.ids, self.video_uris, strict=True)
        return tuple(ScoreTask(ids=(name,), video_uris=(uri,)) for name, uri in one_each)
