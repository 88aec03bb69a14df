"""gpa evaluate on the embedded world: its files, what it does again, and that a kill changes nothing."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jobs.main import cli
from pipeline.evaluation.adapters import TRUTH, NamedAdapter
from pipeline.evaluation.judges import judge
from pipeline.evaluation.judges.judge import JudgeSpec
from pipeline.evaluation.judges.world import true_clip, world_prompt
from pipeline.models import resolve_adapter, resolve_model
from rewards.measures.quality import sharpness
from storage.judgements import EvaluatedClip, read_clips
from storage.run import Run
from storage.tables.shards import shard_files, write_shard
from storage.trained_on import write_trained_on
from tests.conftest import write_prompts
from tests.pipeline.test_held_out import pair_of
from tests.pipeline.tiny_adapter import random_adapter

ROOT = Path(__file__).resolve().parents[2]
FILES = ("evaluation.json", "evaluation.md", "evaluation.csv", "contact-sheet.png")
SMALL = ["--num-prompts", 2, "--seeds", 2, "--workers", 0]


def gpa(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [random_adapter(folder / f"a{seed}", seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def words(adapters: list[Path]) -> list[object]:
    """Four models: two trainings of a group, one of them at half its weight too, and the base."""
    first, second = adapters
    named = [f"ours/0={first}", f"ours/1={second}", f"half={first}@0.5"]
    return [*(word for name in named for word in ("--adapter", name)), *SMALL]


@pytest.fixture
def evaluated(evaluated_once: Path, tmp_path: Path) -> tuple[Run, Run]:
    """The run, and its evaluation by a judge that shares the reward's geometry: a copy for every test."""
    path = Path(shutil.copytree(evaluated_once, tmp_path / "evaluated"))
    return Run.open(path), Run.open(path / "eval" / "heldout")


@pytest.fixture(scope="module")
def evaluated_once(words: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run.create_or_open(tmp_path_factory.mktemp("evaluate") / "run")
    done = gpa("evaluate", run.path, *words, "--judge", "world")
    assert done.exit_code == 0, done.output
    assert "ours (2 trainings) against base: 2 prompts (whether seen in training is not known)" in done.stdout
    assert "(not independent)" in done.stdout
    return run.path


def read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def table(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


def test_a_row_a_clip_says_whose_it_is(evaluated: tuple[Run, Run], words: list[object]) -> None:
    clips = [clip for clip in read_clips(evaluated[1]) if clip.model_name != TRUTH]
    models = {"base": None}
    for text in words[1:6:2]:
        one = NamedAdapter.parse(str(text))
        models[one.label] = (resolve_adapter(one.path, resolve_model("world")).id, one.weight)
    assert len(clips) == 16
    for clip in clips:
        expected = models[clip.model_name] or (None, None)
        assert (clip.adapter, clip.adapter_weight) == expected
    by_model = {
        name: sorted((clip.prompt_id, clip.seed) for clip in clips if clip.model_name == name)
        for name in models
    }
    assert all(found == by_model["base"] and len(set(found)) == 4 for found in by_model.values())
    assert len({clip.candidate_id for clip in clips}) == 16


def mean(clips: list[EvaluatedClip], model: str, measure: str) -> float:
    """The mean over prompts of the means over seeds, from the rows alone."""
    values: dict[str, list[float]] = {}
    for clip in clips:
        value = clip.measures[measure]
        if clip.model_name == model and value is not None:
            values.setdefault(clip.prompt_id, []).append(value)
    return statistics.fmean(statistics.fmean(each) for each in values.values())


def test_the_table_is_that_of_the_rows(evaluated: tuple[Run, Run]) -> None:
    folder, clips = evaluated[1].path, read_clips(evaluated[1])
    found = table(folder)
    assert list(found["tables"]) == ["ours/0", "ours/1", "half@0.5", "ours"]
    assert found["judged_by"]["independent"] is False
    for name in ("ours/0", "ours/1", "half@0.5"):
        for row in found["tables"][name]:
            assert row["base"] == pytest.approx(mean(clips, "base", row["measure"]), rel=1e-9)
            assert row["adapter"] == pytest.approx(mean(clips, name, row["measure"]), rel=1e-9)
            assert row["spread"] is None
    each = {name: {row["measure"]: row for row in rows} for name, rows in found["tables"].items()}
    assert {"fault", "error", "reprojection_psnr", "mvcs", "error_3dcs", "motion"} <= set(each["ours"])
    assert {"epipolar", "saturation", "truth_psnr"} <= set(each["ours"])
    for measure, row in each["ours"].items():
        means = [each[name][measure]["adapter"] for name in ("ours/0", "ours/1")]
        assert (row["spread"]["adapter_min"], row["spread"]["adapter_max"]) == (min(means), max(means))
        assert row["adapter"] == pytest.approx(sum(means) / 2, rel=1e-9)


def test_true_clips_are_judged_beside_those_of_the_models(evaluated: tuple[Run, Run]) -> None:
    inner = evaluated[1]
    found, clips = table(inner.path), read_clips(inner)
    mine = [clip for clip in clips if clip.model_name == TRUTH]
    prompts = {row["prompt_id"]: row for row in inner.rows("prompts").to_pylist()}
    assert {clip.prompt_id for clip in mine} == set(prompts)
    expected = []
    for prompt in prompts.values():
        world = world_prompt(prompt["text"], prompt["metadata"])
        assert world is not None
        expected.append(sharpness(true_clip(world)))
    # The judge sees 8 bits of a video, which is written as luma and chroma.
    assert found["truth"]["sharpness"] == pytest.approx(statistics.fmean(expected), rel=0.01)
    assert found["truth"]["motion"] == pytest.approx(mean(clips, TRUTH, "motion"))
    assert not {"truth_psnr", "first_frame", "error"} & set(found["truth"])
    text = (inner.path / "evaluation.md").read_text()
    assert "| measure | true clips | base |" in text
    assert f"| {found['truth']['sharpness']:.4g} |" in text


def test_the_files_say_the_same(evaluated: tuple[Run, Run]) -> None:
    folder = evaluated[1].path
    found = table(folder)
    with (folder / "evaluation.csv").open() as file:
        lines = list(csv.DictReader(file))
    for kind, tables in (("all", found["tables"]), ("moving", found["filtered"])):
        for name, rows in tables.items():
            of_table = [line for line in lines if (line["table"], line["model"]) == (kind, name)]
            assert [line["measure"] for line in of_table] == [row["measure"] for row in rows]
            assert [float(line["difference_low"]) for line in of_table] == [
                row["difference"]["low"] for row in rows
            ]
    text = (folder / "evaluation.md").read_text()
    assert "not independent" in text
    assert "unit: the prompt" in text
    assert text.count("| measure |") == 8


def test_the_same_command_again_measures_nothing(evaluated: tuple[Run, Run], words: list[object]) -> None:
    run, inner = evaluated
    before = {
        path: path.stat().st_mtime_ns for path in inner.path.rglob("*.parquet") if "clips" not in str(path)
    }
    files = read(inner.path)
    rows = read_clips(inner)
    assert gpa("evaluate", run.path, *words, "--judge", "world").exit_code == 0
    assert read(inner.path) == files
    assert read_clips(inner) == rows
    after = {
        path: path.stat().st_mtime_ns for path in inner.path.rglob("*.parquet") if "clips" not in str(path)
    }
    assert after == before


def judged(inner: Run) -> set[tuple[str, str, str]]:
    found = [
        (row["candidate_id"], row["judge"], row["judge_version"])
        for path in shard_files(inner.shard_dir("judgements"))
        for row in pq.read_table(path, columns=["candidate_id", "judge", "judge_version"]).to_pylist()
    ]
    assert len(found) == len(set(found)), "a clip was measured twice"
    return set(found)


@pytest.mark.slow
def test_another_judge_and_another_adapter_only_add(
    evaluated: tuple[Run, Run], words: list[object], adapters: list[Path], tiny_geometry: Path
) -> None:
    run, inner = evaluated
    before, files = judged(inner), read(inner.path)
    other = ["--judge", f"world={tiny_geometry}"]
    done = gpa("evaluate", run.path, *words, *other)
    assert done.exit_code == 0, done.output
    added = judged(inner) - before
    assert {judge for _, judge, _ in added} == {"world"}
    assert len(added) == 16 + 2, "those of the models, and a true one a prompt"
    assert table(inner.path)["judged_by"]["independent"] is True
    before = judged(inner)
    more = [*words, "--adapter", f"quarter={adapters[0]}@0.25", *other]
    assert gpa("evaluate", run.path, *more).exit_code == 0
    added = judged(inner) - before
    assert len({candidate for candidate, _, _ in added}) == 4
    assert len(read_clips(inner)) == 20 + 2
    # The first judge's table is there as it was, without any work.
    before = judged(inner)
    assert gpa("evaluate", run.path, *words, "--judge", "world").exit_code == 0
    assert judged(inner) == before
    assert read(inner.path) == files


def test_clips_that_stand_still_on_either_side_are_left_out(
    evaluated: tuple[Run, Run], words: list[object]
) -> None:
    run, inner = evaluated
    motions = {
        (clip.model_name, clip.prompt_id, clip.seed): clip.measures["motion"]
        for clip in read_clips(inner)
        if clip.model_name != TRUTH
    }
    bound = sorted(value for key, value in motions.items() if value is not None)[8]
    again = [*words, "--judge", "world", "--min-motion", repr(bound)]
    assert gpa("evaluate", run.path, *again).exit_code == 0
    found = table(inner.path)
    keys = {key[1:] for key in motions}
    moves = {key: {(name, *key): None for name in ("base", "ours/0")} for key in keys}
    kept = {key for key, both in moves.items() if all((motions[one] or 0) >= bound for one in both)}
    assert len(kept) < len(keys)
    rows = {row["measure"]: row for row in found["filtered"]["ours/0"]}
    assert rows.get("motion", {"clips": 0})["clips"] == len(kept)
    assert {row["measure"]: row["clips"] for row in found["tables"]["ours/0"]}["motion"] == len(keys)


def test_the_same_weights_under_two_names_are_refused(tmp_path: Path, adapters: list[Path]) -> None:
    run = Run.create_or_open(tmp_path / "run")
    twice = ["--adapter", f"a={adapters[0]}", "--adapter", f"b={adapters[0]}@1.0"]
    done = gpa("evaluate", run.path, *twice, *SMALL)
    assert done.exit_code == 1
    assert "a and b hold the same weights: leave one of them out" in done.stderr


@pytest.mark.slow
def test_prompts_of_ones_own_have_no_truth_and_are_said_to_be_seen(
    tmp_path: Path, adapters: list[Path]
) -> None:
    run, prompts = Run.create_or_open(tmp_path / "run"), write_prompts(tmp_path / "prompts", 2)
    mine = Path(shutil.copytree(adapters[0], tmp_path / "mine"))
    scenes = [json.loads(line)["scene_id"] for line in prompts.read_text().splitlines()]
    write_shard(tmp_path / "pairs", "pairs", [pair_of(scene) for scene in scenes])
    write_trained_on(mine, tmp_path / "pairs", "train", None)
    words = ["--adapter", mine, "--prompts", prompts, "--seeds", 1, "--workers", 0, "--judge", "none"]
    refused = gpa("evaluate", run.path, *words, "--split", "all")
    assert refused.exit_code == 1
    assert "no prompt of" in refused.stderr
    assert "of 2, 2 were trained on; give --prompts of other scenes" in refused.stderr
    assert "(--also-trained)" in refused.stderr
    assert "of 2, 2 are of other splits than test" in gpa("evaluate", run.path, *words).stderr
    done = gpa("evaluate", run.path, *words, "--split", "all", "--also-trained")
    assert done.exit_code == 0, done.output
    folder = run.path / "eval" / "seen"
    found = table(folder)
    names = {row["measure"] for row in found["tables"]["aligned"]}
    assert {"sharpness", "saturation"} <= names
    assert not names & {"fault", "truth_psnr", "first_frame", "follows", "motion", "mvcs"}
    assert found["filtered"] == found["truth"] == {}
    assert found["judged_by"]["independent"] is None
    assert (found["prompts"], found["judged_by"]["prompts"]["status"]) == (
        "2 prompts seen in training",
        "seen",
    )
    told = [done.stdout, *((folder / f"evaluation.{kind}").read_text() for kind in ("md", "json"))]
    assert all("prompts seen in training" in text for text in told)
    with (folder / "evaluation.csv").open() as file:
        assert {line["prompts_are"] for line in csv.DictReader(file)} == {"seen"}
        file.seek(0)
        assert not any(re.search("held.?out", text, re.IGNORECASE) for text in (*told, file.read()))


def test_a_judge_of_another_kind_has_a_row_and_needs_no_column(
    evaluated: tuple[Run, Run], words: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(judge._OWN, "taste", JudgeSpec(module="tests.pipeline.toy_judge"))
    run, inner = evaluated
    done = gpa("evaluate", run.path, *words, "--judge", "world", "--judge", "taste", "--json")
    assert done.exit_code == 0, done.output
    rows = {row["measure"]: row for row in json.loads(done.stdout)["tables"]["ours"]}
    assert rows["length"]["win_rate"]["mean"] == 0.5  # the prompt is the same on both sides
    assert "other" not in rows
    lengths = [clip.measures["length"] for clip in read_clips(inner) if clip.model_name == "base"]
    assert sum(one or 0 for one in lengths) / len(lengths) == pytest.approx(rows["length"]["base"])


def start(words: list[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.main", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_files(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while process.poll() is None and len(list(folder.glob("*.*"))) < count:
        assert time.monotonic() < deadline, "the command wrote nothing"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.long(
    reason="five starts of gpa evaluate, which loads the world's models each time; make test evaluates again "
    "here what is there in part, and kills gpa sample in test_kill.py"
)
def test_a_kill_at_any_point_changes_no_byte_of_the_table(
    evaluated: tuple[Run, Run], words: list[object], tmp_path: Path
) -> None:
    """Killed while it samples, scores, judges and writes; then the table is that of the run without kills."""
    run, inner = evaluated
    asked = [*words, "--judge", "world"]
    assert gpa("evaluate", run.path, *asked).exit_code == 0
    other = Run.create_or_open(tmp_path / "run").path
    folder, moments, hit = other / "eval" / "heldout", random.Random(4), []
    for table_name, count in (("candidates", 1), ("candidates", 5), ("scores", 1), ("judgements", 1)):
        process = start(["evaluate", other, *asked])
        wait_for_files(process, folder / table_name, count)
        time.sleep(moments.random() * 0.3)
        process.kill()
        process.communicate()
        hit.append(process.returncode == -signal.SIGKILL)
    assert sum(hit) >= 3
    process = start(["evaluate", other, *asked])
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert read(folder) == read(inner.path)
    judged(Run.open(folder))
    assert read_clips(Run.open(folder)) == read_clips(inner)
