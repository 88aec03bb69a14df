"""A run made before opens, continues, and gives the same ids, values, pairs and losses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.run import Run
from tests.jobs.test_cli import gpa

FIXTURE = Path(__file__).parent.parent / "fixtures" / "run_at_2_12_1"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text(encoding="utf-8"))
# Other instructions of a processor, or another torch, give other last digits of the same numbers.
SAME_ARITHMETIC = (
    torch.__version__.partition("+")[0] == EXPECTED["torch"]
    and torch.backends.cpu.get_cpu_capability() == EXPECTED["cpu_capability"]
)

SAMPLE = ["--num-prompts", 3, "--candidates", 3, "--batch", 3, "--steps", 4, "--workers", 0]
PAIR = ["--min-gap", 0, "--min-image-motion", 0, "--min-sharpness", 0, "--min-coverage", 0]
PAIR += ["--max-motion-ratio", "inf"]
TRAIN = [
    "--steps",
    10,
    "--batch-size",
    1,
    "--threads",
    1,
    "--warmup",
    2,
    "--rank",
    4,
    "--checkpoint-every",
    5,
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the old run."""
    return Path(shutil.copytree(FIXTURE / "run", tmp_path / "run"))


def result_of(*words: Any) -> dict[str, Any]:
    done = gpa(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def same(found: list[float], expected: list[float]) -> bool:
    if SAME_ARITHMETIC:
        return found == expected
    return len(found) == len(expected) and all(
        math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)
        for one, other in zip(found, expected, strict=True)
    )


def losses(run: Path, name: str) -> list[float]:
    lines = (run / "train" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def pairs(run: Path) -> list[list[Any]]:
    rows = Run.open(run).rows("pairs", columns=["pair_id", "winner_id", "loser_id", "gap"]).to_pylist()
    return sorted([row["pair_id"], row["winner_id"], row["loser_id"], row["gap"]] for row in rows)


def test_nothing_is_done_again(run: Path) -> None:
    sampled = result_of("sample", run, *SAMPLE)
    assert (sampled["present"], sampled["done"]) == (9, 0)
    scored = result_of("score", run, "--workers", 0)
    assert (scored["present"], scored["done"]) == (9, 0)
    result_of("pair", run, *PAIR)
    assert sorted(path.name for path in (run / "pairs").iterdir()) == EXPECTED["pair_shards"]


def test_what_is_made_anew_is_what_was_made_before(run: Path) -> None:
    for table in ("candidates", "scores", "pairs"):
        shutil.rmtree(run / table)
    shutil.rmtree(run / "media")
    assert result_of("sample", run, *SAMPLE)["done"] == 9
    ids = Run.open(run).rows("candidates", columns=["candidate_id"]).column("candidate_id").to_pylist()
    assert sorted(ids) == EXPECTED["candidate_ids"]
    assert result_of("score", run, "--workers", 0)["done"] == 9
    rows = Run.open(run).rows("scores", columns=["candidate_id", "value"]).to_pylist()
    values = {row["candidate_id"]: row["value"] for row in rows}
    assert same([values[one] for one in sorted(values)], list(EXPECTED["values"].values()))
    result_of("pair", run, *PAIR)
    if SAME_ARITHMETIC:
        assert pairs(run) == EXPECTED["pairs"]


def test_a_training_continues_and_another_starts_as_it_did(run: Path) -> None:
    result_of("train-dpo", run, *TRAIN)
    assert same(losses(run, "dpo"), EXPECTED["losses"])
    result_of("train-dpo", run, *TRAIN, "--name", "again")
    assert same(losses(run, "again"), EXPECTED["losses"])
