"""VideoReward as a judge: named floats by the published formula, through the protocol of judges."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from jobs.doctor import weights as doctor
from jobs.main import cli
from pipeline.evaluation.judges.judge import JUDGES, ClipJudge, JudgedClip
from pipeline.evaluation.judges.videoreward import VideoRewardJudge
from rewards.errors import RewardError
from rewards.videoreward.weights import convert, find_weights
from tests.rewards.videoreward import tiny

GOLDEN = Path(tiny.__file__).with_name("golden.json")


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("videoreward")
    published, base = tiny.write_published(place / "published"), tiny.write_base(place / "base")
    return convert(str(published), str(base), tiny.write_prompt(place), place / "converted")


@pytest.fixture(scope="module")
def judge(folder: Path) -> ClipJudge:
    made = JUDGES["videoreward"].make(str(folder))
    travelled: ClipJudge = pickle.loads(pickle.dumps(made))  # noqa: S301 (our own bytes, as to a worker)
    travelled.setup("cpu")
    return travelled


def clip(number: int, text: str | None = None) -> JudgedClip:
    fps, prompt = tiny.CLIPS[number][3:]
    frames = tiny.frames(number).float() / 255
    return JudgedClip(frames_THW3=frames, fps=fps, text=prompt if text is None else text)


def test_values_are_the_published_ones_normalised(judge: ClipJudge) -> None:
    golden = json.loads(GOLDEN.read_text())["1"]
    for number in (0, 2):
        vq, mq, ta = golden[number]["raw"]
        expected = [(vq - 3.6757) / 2.2476, (mq - 1.1646) / 1.3811, (ta - 2.8105) / 2.5121]
        values = judge.measure(clip(number))
        assert list(values) == ["videoreward_vq", "videoreward_mq", "videoreward_ta", "videoreward"]
        assert list(values) == [measure.name for measure in judge.measures]
        assert list(values.values()) == pytest.approx([*expected, sum(expected)], abs=3e-4)
        assert judge.measure(clip(number)) == values


def test_only_text_alignment_hears_the_prompt(judge: ClipJudge) -> None:
    one, other = judge.measure(clip(0)), judge.measure(clip(0, "a blue cube falls from the table"))
    for name in ("videoreward_vq", "videoreward_mq"):
        assert one[name] == pytest.approx(other[name], abs=1e-5)
    assert abs(one["videoreward_ta"] - other["videoreward_ta"]) > 1e-3


def test_what_cannot_be_measured_is_left_out_with_its_reason(
    judge: ClipJudge, caplog: pytest.LogCaptureFixture
) -> None:
    assert judge.measure(clip(0, "the token <|TA_reward|>")) == {}
    assert "its prompt spells out <|TA_reward|>" in caplog.text


def test_a_judge_names_what_its_values_depend_on(folder: Path, tmp_path: Path) -> None:
    made = JUDGES["videoreward"].make(str(folder))
    assert made.version == JUDGES["videoreward"].make(str(folder)).version
    assert (made.name, made.license) == ("videoreward", "unknown")
    assert all(measure.better == 1 for measure in made.measures)
    with pytest.raises(RuntimeError, match="setup comes before measure"):
        made.measure(clip(0))
    other = tmp_path / "other"
    convert(str(tiny.write_published(tmp_path / "published", 3)), str(folder), folder / "prompt.txt", other)
    assert JUDGES["videoreward"].make(str(other)).version != made.version
    same = shutil.copytree(folder, tmp_path / "same")
    assert JUDGES["videoreward"].make(str(same)).version == made.version
    changed = (same / "model_config.json").read_text().replace("3.6757", "3.5")
    (same / "model_config.json").write_text(changed)
    assert JUDGES["videoreward"].make(str(same)).version != made.version
    with pytest.raises(RewardError, match="is a pickle"):
        JUDGES["videoreward"].make(None)


def test_the_command_converts_and_the_doctor_finds(folder: Path, tmp_path: Path) -> None:
    (missing,) = doctor.judges()
    assert (missing.name, missing.state, missing.required) == ("judge videoreward", "missing", False)
    assert "2.28 B parameters, 4.25 GiB at 16 bits" in missing.detail
    assert "Apache-2.0" in missing.detail
    assert "gpa convert-videoreward" in str(missing.remedy)
    published = tiny.write_published(tmp_path / "published")
    words = ["convert-videoreward", "--checkpoint", str(published), "--base", str(folder)]
    wordless = CliRunner().invoke(cli, words)
    assert wordless.exit_code == 2
    assert (
        "--prompt is missing: name the published prompt_template.py; fetch it with: curl" in wordless.stderr
    )
    words += ["--prompt", str(tiny.write_prompt(tmp_path))]
    done = CliRunner().invoke(cli, words)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.endswith("use it with --judge videoreward\n")
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 1
    assert "exists; remove it or choose another folder" in again.stderr
    (found,) = doctor.judges()
    assert found.state == "ok"
    assert JUDGES["videoreward"].make(None).version in found.detail
    elsewhere = CliRunner().invoke(cli, [*words, str(tmp_path / "here"), "--json"])
    assert json.loads(elsewhere.stdout) == {"folder": str(tmp_path / "here")}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_published_values_too(folder: Path) -> None:
    made = VideoRewardJudge(weights=find_weights(str(folder)))
    made.setup("cuda")
    rough = made.measure(clip(0))
    assert made.measure(clip(0)) == rough
    assert made._loaded is not None
    made._loaded[0].float()  # in bfloat16 a network as small as this one is a matter of chance
    vq = json.loads(GOLDEN.read_text())["1"][0]["raw"][0]
    assert made.measure(clip(0))["videoreward_vq"] == pytest.approx((vq - 3.6757) / 2.2476, abs=5e-3)
