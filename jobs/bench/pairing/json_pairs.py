"""The obvious way to make pairs, to measure against: a Python loop over files of JSON lines.

    python -m jobs.bench.pairing.json_pairs FOLDER MIN_GAP MAX_ERROR

reads candidates.jsonl and scores.jsonl of FOLDER and writes pairs.jsonl.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.run import Run
from storage.tables.schemas import default_columns

# What pairing needs of the tables, and nothing else.
_NEEDED = {
    "prompts": ["prompt_id", "scene_id", "split", "text"],
    "candidates": ["candidate_id", "prompt_id", "status", "model", "revision", "num_frames"],
    "scores": ["candidate_id", "reward", "reward_version", "value", "motion"],
}


def write_json(run: Run, folder: Path, *, needed_only: bool) -> None:
    """Write the tables of a run as JSON lines, all columns or only those that pairing needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, needed in _NEEDED.items():
        rows = run.rows(table, needed if needed_only else default_columns(table))
        with (folder / f"{table}.jsonl").open("w") as file:
            for batch in rows.to_batches(max_chunksize=10_000):
                file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())


def pair(folder: Path, min_gap: float, max_error: float) -> int:
    """Best against worst of every prompt, into pairs.jsonl; the number of pairs."""
    prompts = {row["prompt_id"]: row for row in _rows(folder / "prompts.jsonl")}
    scores = {row["candidate_id"]: row for row in _rows(folder / "scores.jsonl")}
    by_prompt: dict[str, list[tuple[float, str, Any]]] = defaultdict(list)
    for row in _rows(folder / "candidates.jsonl"):
        score = scores.get(row["candidate_id"])
        if row["status"] == "ok" and score and score["value"] is not None and math.isfinite(score["value"]):
            by_prompt[row["prompt_id"]].append((-score["value"], row["candidate_id"], row))
    count = 0
    with (folder / "pairs.jsonl").open("w") as file:
        for prompt_id, ranked in by_prompt.items():
            ranked.sort(key=lambda one: one[:2])
            (error, winner, row), (other, loser, _) = ranked[0], ranked[-1]
            if len(ranked) > 1 and error <= max_error and other > error and other - error >= min_gap:
                about = {name: row[name] for name in ("model", "revision", "num_frames")}
                about |= {name: scores[winner][name] for name in ("reward", "reward_version")}
                about |= {"winner_motion": scores[winner]["motion"], "loser_motion": scores[loser]["motion"]}
                about |= {"winner_value": -error, "loser_value": -other, "gap": other - error}
                pair = {**prompts[prompt_id], "winner_id": winner, "loser_id": loser, **about}
                file.write(json.dumps(pair) + "\n")
                count += 1
    return count


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


if __name__ == "__main__":
    pair(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
