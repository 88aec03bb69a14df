"""What a run lost after it was written: files that were cut short or went, found before work begins."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from storage.integrity import is_whole
from storage.repair import drop_rows
from storage.run import Run

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


def forget(run: Run, damaged: Collection[str], tasks_ids: Iterable[str]) -> None:
    """Drop the rows of damaged candidates that are about to be made again, so that each has one row."""
    redone = sorted(set(damaged).intersection(tasks_ids))
    if redone:
        log.warning("%d candidates have damaged files and are made again, such as %s", len(redone), redone[0])
        drop_rows(run, "candidates", redone)
