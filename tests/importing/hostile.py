"""Helpers of the tests with hostile sources."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from pipeline.importing.import_videos import run_import
from storage.run import Run
from tests.importing.clips import rejected, rows, settings

PLACE = "a quiet hall 0"


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("data.pkl", "x" * 100)
    return data.getvalue()


def outcome(run: Run, source: Path, where: str, **changes: Any) -> tuple[str, str]:
    """Import; everything but `where` is taken in. Returns its rule and reason."""
    summary = run_import(run, settings(source, **changes))
    assert (summary.done, summary.failed) == (1, 1), summary
    assert [row["seed"] for row in rows(run)] == [0]
    left = {path.stem for path in (run.path / "media" / "videos").iterdir()}
    assert left == {row["candidate_id"] for row in rows(run)}
    found = rejected(run)
    ids = {row["id"]: row for row in rows(run, "rejects")}
    assert all("\n" not in row["detail"] for row in ids.values())
    match = [value for value in found.values() if value[1].startswith(f"{where}: ")]
    assert len(match) == 1, found
    return match[0]


def manifest(source: Path, *others: dict[str, Any], name: str = "list.jsonl") -> Path:
    """A manifest beside the videos: the good one, then others."""
    good = {"prompt": "a hall", "seed": 0, "path": f"{PLACE}/0.mp4"}
    path = source / name
    path.write_text("\n".join(json.dumps(one) for one in [good, *others]))
    return path
