"""The whole journey through the command line, in its short form, as a newcomer starts it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage.media.pictures import read_image
from storage.run import Run


def gpa(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=800)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "run"
    # Workers are what the Ray tests look at; here they would load every model twice more.
    done = gpa("demo", "--fast", "--out", str(out), "--workers", "0")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.mark.slow
def test_every_stage_is_printed_as_a_command_with_its_time(demo: tuple[Path, str]) -> None:
    _, printed = demo
    commands = re.findall(r"^\$ gpa ([\w-]+)", printed, flags=re.MULTILINE)
    assert commands == ["sample", "score", "pair", "train-dpo", "evaluate", "report"]
    assert re.search(
        r"sample \d+ s, score \d+ s, pair \d+ s, train-dpo \d+ s, evaluate \d+ s, report \d+ s", printed
    )


@pytest.mark.slow
def test_it_ends_with_six_rows_and_says_where_the_full_table_is(demo: tuple[Path, str]) -> None:
    out, printed = demo
    end = printed[printed.index("What alignment changed") :]
    assert "on 3 held-out prompts" in end
    assert re.search(r"^faulty videos +\d+ % +\d+ % +[+-]\d+ %$", end, flags=re.MULTILINE)
    assert "of 100 videos, " in end
    assert "epipolar" not in printed[printed.index("$ gpa evaluate") :]
    assert f"{out}/eval/heldout/evaluation.md" in end


@pytest.mark.slow
def test_the_run_holds_every_table_and_an_adapter(demo: tuple[Path, str]) -> None:
    run = Run.open(demo[0])
    assert [run.rows(table).num_rows for table in ("prompts", "candidates", "scores")] == [4, 16, 16]
    assert run.rows("pairs").num_rows > 0
    assert (run.path / "train" / "dpo" / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    assert {"sample", "score", "pair"} <= set(run.header()["commands"])


@pytest.mark.slow
def test_the_table_compares_the_same_seeds(demo: tuple[Path, str]) -> None:
    folder = demo[0] / "eval" / "heldout"
    table = json.loads((folder / "evaluation.json").read_text())
    assert table["clips"] == 12
    rows = {row["measure"]: row for row in table["tables"]["aligned"]}
    of_the_judge = {"reprojection_psnr", "reprojection_ssim", "mvcs", "error_3dcs", "motion"}
    of_the_world = {"fault", "truth_psnr", "first_frame", "follows"}
    assert of_the_judge | of_the_world | {"error", "epipolar", "sharpness", "saturation"} <= set(rows)
    assert table["judged_by"]["independent"] is True
    assert table["prompts"] == "3 held-out prompts"
    for row in rows.values():
        assert row["prompts"] == 3
        assert row["difference"]["mean"] == pytest.approx(row["adapter"] - row["base"], abs=1e-9)
        assert row["difference"]["low"] <= row["difference"]["mean"] <= row["difference"]["high"]
    candidates = Run.open(folder).rows("candidates").to_pylist()
    seeds = {
        adapter is None: sorted(row["seed"] for row in candidates if row["adapter"] == adapter)
        for adapter in {row["adapter"] for row in candidates}
    }
    assert seeds[True] == seeds[False]
    assert read_image(folder / "contact-sheet.png").shape[0] > 3 * 3 * 128


@pytest.mark.slow
def test_the_same_demo_again_does_nothing_twice(demo: tuple[Path, str]) -> None:
    before = (demo[0] / "eval" / "heldout" / "evaluation.json").read_text()
    again = gpa("demo", "--fast", "--out", str(demo[0]), "--workers", "0")
    assert again.returncode == 0, again.stderr
    assert "0 candidates sampled, 16 were there" in again.stdout
    assert (demo[0] / "eval" / "heldout" / "evaluation.json").read_text() == before


@pytest.mark.slow
@pytest.mark.long(
    reason="starts Ray for three stages, with two workers that load torch each; make test has the same demo "
    "in one process, and workers against one process in pipeline/test_sample.py"
)
def test_with_its_two_workers_the_demo_finds_the_same(demo: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = gpa("demo", "--fast", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "--workers 2" in done.stdout
    for path in ("evaluation.csv", "evaluation.json"):
        path = f"eval/heldout/{path}"
        assert (out / path).read_bytes() == (demo[0] / path).read_bytes()


def test_evaluate_names_a_missing_adapter(demo: tuple[Path, str]) -> None:
    done = gpa("evaluate", str(demo[0]), "--adapter", "nowhere")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: adapter nowhere has no")
