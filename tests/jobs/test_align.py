"""Rounds of alignment: what decides them, and two of them on the embedded world by the command itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.align.rounds import BASE, Guards, Round, best_of, fault_of, figures, label
from storage.errors import FieldError, UserError
from storage.run import Run
from storage.tables.shards import read_rows
from tests.jobs.test_cli import gpa

PROMPTS, SEEDS = 3, 2


def clips(
    model: str, error: float | None, motion: float = 1.0, sharpness: float = 1.0
) -> list[dict[str, Any]]:
    """Rows of an evaluation whose prompts differ, all by the same factor from the base's."""
    return [
        {
            "model_name": model,
            "prompt_id": f"p{prompt}",
            "seed": seed,
            "error_3dcs": None if error is None else error * (1 + prompt),
            "motion": motion * (2 + prompt),
            "sharpness": sharpness,
        }
        for prompt in range(PROMPTS)
        for seed in range(SEEDS)
    ]


def made(*models: tuple[float, float, float]) -> list[Round]:
    """Rounds whose adapters have these errors, motions and sharpnesses; the base has ones."""
    rows = clips(BASE, 1.0)
    rounds = []
    for number, figures_of in enumerate(models, start=1):
        rows += clips(label(number), *figures_of)
        measures, shares = figures(rows, number)
        rounds.append(
            Round(
                number=number,
                preset="world",
                options={},
                adapter_id="",
                pairs=1,
                steps=1,
                seconds=1.0,
                measures=measures,
                shares=shares,
            )
        )
    return rounds


def test_figures_are_shares_of_the_means() -> None:
    first, second = made((0.8, 0.9, 1.0), (0.6, 0.95, 0.5))
    assert first.measures[BASE]["error_3dcs"] == pytest.approx(np.mean([1, 2, 3]))
    assert second.shares[BASE]["error_3dcs"] == pytest.approx([0.6, 0.6, 0.6])
    assert second.shares[label(1)]["error_3dcs"] == pytest.approx([0.75, 0.75, 0.75])
    assert second.shares[BASE]["motion"] == pytest.approx([0.95, 0.95, 0.95])
    assert second.shares[BASE]["sharpness"] == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("models", "guards", "best", "said"),
    [
        ([(0.8, 0.95, 1), (0.7, 0.92, 1)], {}, 2, None),
        (
            [(0.8, 0.95, 1), (0.81, 0.92, 1)],
            {},
            1,
            "rose by 1.2%, and was to fall by more than 0.0%",
        ),
        (
            [(0.8, 0.95, 1), (0.78, 0.92, 1)],
            {"min_gain": 0.05},
            1,
            "fell by 2.5%, and was to fall by more than 5.0%",
        ),
        ([(0.8, 0.95, 1), (0.7, 0.85, 1)], {}, 1, "85.0% of the motion is left, less than 90.0%"),
        ([(0.8, 0.95, 1), (0.7, 0.95, 0.9)], {}, 1, "90.0% of the sharpness is left, less than 95.0%"),
        ([(0.8, 0.5, 1)], {}, 0, "50.0% of the motion is left"),
        ([(1.0, 1.0, 1)], {}, 0, "the error fell by 0.0%"),
        ([(1.01, 1.0, 1)], {"min_gain": -0.02}, 1, None),
    ],
)
def test_the_last_round_that_pays_is_the_result(
    models: list[tuple[float, float, float]], guards: dict[str, float], best: int, said: str | None
) -> None:
    rounds, when = made(*models), Guards(**guards)
    assert best_of(rounds, when) == best
    fault = fault_of(rounds[-1], when)
    assert (fault is None) if said is None else (said in str(fault))


def test_what_decides_nothing_is_refused() -> None:
    rows = clips(BASE, 1.0) + clips(label(1), None)
    with pytest.raises(
        UserError, match=r"no error \(error_3dcs or epipolar\) was measured of base and round 1"
    ):
        figures(rows, 1)
    with pytest.raises(FieldError, match="keep_motion"):
        Guards(keep_motion=-1)
    with pytest.raises(FieldError, match="min_gain"):
        Guards(min_gain=1)


SMALL = {
    "sample": "--num-prompts 2 --candidates 3 --batch 3 --steps 2 --workers 0",
    "score": "--workers 0",
    "pair": "--min-gap 0 --max-motion-ratio inf --min-coverage 0 --min-image-motion 0 --min-sharpness 0",
    "train-dpo": "--steps 2 --warmup 0 --batch-size 2 --rank 2 --alpha 2",
    "evaluate": "--num-prompts 2 --seeds 1 --workers 0 --judge none",
}
LENIENT = ["--min-gain", "-9", "--keep-motion", "0", "--keep-sharpness", "0"]


def words_of(**changed: str) -> list[str]:
    return [word for name, text in {**SMALL, **changed}.items() for word in (f"--{name}", text)]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after two rounds."""
    run = tmp_path_factory.mktemp("aligned") / "run"
    done = gpa("align", run, *words_of(), *LENIENT)
    assert done.exit_code == 0, done.output
    assert f"result: round 2, {run / 'train' / 'align-2' / 'adapter'}" in done.output
    return run


@pytest.mark.slow
def test_a_round_pairs_what_the_last_adapter_made_and_trains_on(aligned: Path) -> None:
    run = Run.open(aligned)
    first, second = (
        json.loads((aligned / "train" / f"align-{number}" / "adapter" / "adapter.json").read_text())
        for number in (1, 2)
    )
    assert (first["training"]["total_steps"], second["training"]["total_steps"]) == (2, 4)
    assert second["training"]["start"]["sha256"] == first["sha256"]
    adapters = {
        row["candidate_id"]: row["adapter"]
        for row in run.rows("candidates", ["candidate_id", "adapter"]).to_pylist()
    }
    rounds = json.loads((aligned / "align" / "align" / "rounds.json").read_text())
    for number, of in ((1, None), (2, rounds["rounds"][0]["adapter_id"])):
        pairs = read_rows(
            aligned / "align" / "align" / f"pairs-{number}", "pairs", ["pair_id", "winner_id", "loser_id"]
        )
        found = {adapters[one] for name in ("winner_id", "loser_id") for one in pairs[name].to_pylist()}
        assert found == {of}
    seeds = {
        of: {row["seed"] for row in run.rows("candidates").to_pylist() if row["adapter"] == of}
        for of in set(adapters.values())
    }
    assert not set.intersection(*seeds.values()), "a round draws seeds of its own"
    assert rounds["best"] == 2


@pytest.mark.slow
def test_the_same_command_changes_nothing_and_others_are_refused(aligned: Path) -> None:
    def files() -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns for path in (aligned / "train").rglob("*") if path.is_file()
        }

    before = files()
    again = gpa("align", aligned, *words_of(), *LENIENT, "--json")
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    assert (told["best"], len(told["rounds"])) == (2, 2)
    assert files() == before
    strict = json.loads(gpa("align", aligned, *words_of(), "--min-gain", ".99", "--json").stdout)
    assert (strict["best"], strict["adapter"], len(strict["rounds"])) == (0, None, 1)
    assert "and was to fall by more than 99.0%" in strict["stopped"]
    assert len(json.loads((aligned / "align" / "align" / "rounds.json").read_text())["rounds"]) == 2
    # A run may be moved, and its preset be named.
    moved = Path(shutil.copytree(aligned, aligned.parent / "moved"))
    here = json.loads(gpa("align", moved, "--preset", "world", *words_of(), *LENIENT, "--json").stdout)
    assert (here["best"], here["adapter"]) == (2, str(moved / "train" / "align-2" / "adapter"))
    other = gpa("align", aligned, *words_of(**{"train-dpo": "--steps 3 --rank 2 --alpha 2"}), *LENIENT)
    assert other.exit_code == 1
    assert "round 1 in" in other.stderr
    assert "was made with --train-dpo '--steps 2" in other.stderr
    assert "or another --name" in other.stderr


def test_options_of_stages_are_checked_before_anything_runs(tmp_path: Path) -> None:
    wrong = gpa("align", tmp_path / "run", "--evaluate", "--sedes 3")
    assert wrong.exit_code == 2
    assert "--evaluate '--sedes 3': No such option '--sedes'" in wrong.stderr
    for option, text, said in (
        ("--train-dpo", "--name z", "--name is for gpa align to say: leave it out"),
        ("--sample", "--adapter x", "--adapter is for gpa align to say"),
        ("--sample", "--dry-run", "--dry-run is for gpa align to say"),
        ("--pair", "--help", "ask gpa pair --help itself"),
        ("--train-dpo", "--rank 0", "--rank must be a whole number >= 1"),
    ):
        refused = gpa("align", tmp_path / "run", option, text)
        assert refused.exit_code == 2
        assert said in refused.stderr
    assert not (tmp_path / "run").exists()
    planned = gpa("align", tmp_path / "run", "--rounds", "2", "--sample", "--seed 7", "--dry-run").stdout
    lines = planned.splitlines()
    assert len(lines) == 10
    assert lines[0].endswith("--seed 7")
    assert "--seed 8" in lines[5]
    assert f"--from-adapter {tmp_path / 'run' / 'train' / 'align-1' / 'adapter'}" in lines[8]
    assert "--split val" in lines[9]
