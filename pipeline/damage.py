"""What a run lost after it was written: files that were cut short or went, found before work begins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from storage.media.video import is_whole
from storage.run import Run
from storage.upkeep.repair import drop_rows, set_aside_unreadable, unreadable_shards

log = logging.getLogger(__name__)

_COLUMNS = ["candidate_id", "prompt_id", "status", "video_uri", "latent_uri"]


def damaged_candidates(run: Run) -> set[str]:
    """Candidates whose row promises a video or latents that are not whole.

    For a prompt whose encoded condition is not whole, the first of its candidates: sampling it writes the
    condition again. Files are not decoded.
    """
    damaged: set[str] = set()
    first: dict[str, str] = {}
    for row in run.rows("candidates", _COLUMNS).to_pylist():
        name, prompt = row["candidate_id"], row["prompt_id"]
        if row["status"] != "ok":
            continue
        uris = [uri for uri in (row["video_uri"], row["latent_uri"]) if uri]
        if not all(is_whole(run.resolve(uri)) for uri in uris):
            damaged.add(name)
        first[prompt] = min(name, first.get(prompt, name))
    for prompt, name in first.items():
        if not is_whole(run.resolve(run.condition_uri(prompt))):
            damaged.add(name)
    return damaged


def mend_tables(run: Run, stage: str, *tables: str) -> None:
    """Put shards aside that cannot be read, while nobody else writes. Raises UserError when somebody does."""
    if unreadable_shards(run, *tables):
        with run.lock_alone(stage):
            set_aside_unreadable(run, *tables)


def mend_candidates(run: Run, stage: str, wanted: Callable[[], Collection[str]]) -> None:
    """Drop the rows of damaged candidates that are `wanted`, so that they are made again and have one row.

    Others stay: the command cannot make them. Raises UserError when somebody else writes into the run.
    """
    damaged = damaged_candidates(run)
    if redone := sorted(damaged and damaged.intersection(wanted())):
        log.warning("%d candidates have damaged files and are made again, such as %s", len(redone), redone[0])
        with run.lock_alone(stage):
            drop_rows(run, "candidates", redone)
