"""Packages beside gpa add to its tables: the package of docs/extending.md as printed, and broken ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jobs.data.score import _options_of_rewards
from jobs.settings.from_dataclass import names_of
from jobs.settings.presets import of_run
from rewards.extensions import declared
from tests import tiny_wan
from tests.jobs.test_cli import gpa

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
_BLOCK = re.compile(r"^```(?:toml|python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def printed() -> dict[str, str]:
    """The files of the page by their names."""
    return dict(_BLOCK.findall(PAGE.read_text(encoding="utf-8")))


def install(folder: Path, files: Mapping[str, str], name: str = "my-gpa") -> Path:
    """What an installer leaves of a package: its modules, and the entry points of its pyproject.toml."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    for file, text in files.items():
        if file != "pyproject.toml":
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
            (folder / file).parent.joinpath("__init__.py").touch()
    told = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (told / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the page, installed."""
    return install(tmp_path_factory.mktemp("site"), printed())


def python(package: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, where the package is installed."""
    path = os.pathsep.join([str(package), str(ROOT)])
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def gpa_with(package: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return python(package, "-m", "jobs.main", *words)


@pytest.fixture(scope="module")
def scored(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run sampled, scored and paired by the preset of the package."""
    run = tmp_path_factory.mktemp("extended") / "run"
    small = ["--num-prompts", "2", "--candidates", "2", "--workers", "0"]
    for words in (
        ["sample", run, "--preset", "mine", *small],
        ["score", run, "--workers", "0"],
        ["pair", run],
    ):
        done = gpa_with(package, *words)
        assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
def test_its_reward_and_its_preset_score_and_pair(scored: Path, package: Path) -> None:
    import duckdb

    shards = f"'{scored}/scores/*.parquet'"
    rows = duckdb.sql(f"SELECT DISTINCT reward, image_motion > 0, sharpness > 0 FROM {shards}").fetchall()
    assert rows == [("brightness", True, True)]
    assert "--tolerance X" in gpa_with(package, "score", "--help-all").stdout
    refused = gpa_with(package, "score", scored, "--tolerance", "-1")
    assert "error: reward 'brightness': --tolerance must be >= 0, got -1.0" in refused.stderr
    # What the package's preset said stays with the run: here the package is not installed.
    kept = of_run(scored)
    assert kept is not None
    assert kept.sections["score"]["tolerance"] == 0.002


@pytest.mark.slow
def test_its_geometry_scores_and_its_judge_judges(scored: Path, package: Path) -> None:
    again = gpa_with(
        package, "score", scored, "--reward", "reprojection", "--geometry", "wall", "--workers", "0"
    )
    assert again.returncode == 0, again.stderr
    assert "geometry: wall at 1, licence Apache-2.0" in again.stderr
    code = """
import torch
from pipeline.evaluation.judges.judge import JUDGES, JudgeChoice, JudgedClip
from pipeline.evaluation.panel import Panel
panel = Panel.of([JudgeChoice.parse("wall"), JudgeChoice.parse("contrast")], model="x", frames=4, world=False)
assert "contrast" in panel.versions and panel.geometry is not None
judge = JUDGES["contrast"].make(None)
judge.setup("cpu")
clip = torch.rand(4, 8, 8, 3)
clip[-1] = clip[0] / 2
assert abs(judge.measure(JudgedClip(frames_THW3=clip, fps=8.0, text=""))["contrast"] - 0.5) < 1e-6
"""
    done = python(package, "-c", code)
    assert done.returncode == 0, done.stderr


def renamed(folder: Path, index: dict[str, object]) -> Path:
    """A tiny Wan folder whose model_index.json says something else."""
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    return folder


@pytest.mark.slow
def test_its_sampler_and_its_family_take_their_models(package: Path, tmp_path: Path) -> None:
    wan = tiny_wan.build(tmp_path / "wan", "t2v")
    renamed(wan, {"_class_name": "MyWanPipeline"})
    trained = shutil.copytree(wan, tmp_path / "trained")
    renamed(trained, {"transformer": ["diffusers", "MyWanTransformer3DModel"]})
    code = """
import sys
from pathlib import Path
import torch
from pipeline.models import resolve_model
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings
from trainer.families import load_family
model = resolve_model(sys.argv[1])
settings = SamplerSettings(
    steps=1, guidance=1.0, height=32, width=48, num_frames=9, fps=8, max_sequence_length=8, precision="fp32"
)
sampler = make_sampler(model, settings)
sampler.setup()
(sample,) = sampler.sample(sampler.encode("a room", None), [1])
assert type(sampler).__name__ == "MyWanSampler" and sample.frames_THW3.shape == (9, 32, 48, 3)
family = load_family(Path(sys.argv[2]), torch.float32)
assert family.name == "my-wan" and "ffn.net.2" in family.lora_targets
"""
    done = python(package, "-c", code, wan, trained)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_doctor_lists_what_packages_add(package: Path) -> None:
    shown = gpa_with(package, "doctor").stdout
    assert "my-gpa 1.0: reward brightness" in " ".join(shown.split())
    assert "geometry backend wall" in shown
    assert "preset mine" in shown


BROKEN = {
    "no module": (
        "gpa.rewards",
        "gloss = absent_module:SPEC",
        "score RUN --reward gloss",
        "cannot be loaded",
    ),
    "not a spec": ("gpa.rewards", "gloss = json:dumps", "score RUN --reward gloss", "must be a RewardSpec"),
    "gpa's name": (
        "gpa.rewards",
        "combined = json:dumps",
        "score RUN --reward combined",
        "'combined' is declared by gpa and by bad 2.0",
    ),
    "no preset": ("gpa.presets", "gone = json", "sample RUN --preset gone", "gone.yaml"),
    "gpa's preset": ("gpa.presets", "world = json", "sample RUN --preset world", "by gpa and by bad 2.0"),
}


@pytest.fixture
def bad(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What gpa is asked for beside a package with a line that is wrong."""
    group, line, command, _ = BROKEN[request.param]
    key, _, value = line.partition(" = ")
    project = (
        f'[project]\nname = "bad"\nversion = "2.0"\n[project.entry-points."{group}"]\n{key} = "{value}"\n'
    )
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", {"pyproject.toml": project})))
    declared.cache_clear()
    yield command.replace("RUN", str(tmp_path / "run"))
    declared.cache_clear()


@pytest.mark.parametrize(
    ("bad", "case"), [(case, case) for case in BROKEN], indirect=["bad"], ids=list(BROKEN)
)
def test_a_broken_package_is_named_and_spoils_nothing_else(
    bad: str, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    refused = gpa(*bad.split())
    assert refused.exit_code == 1, refused.output
    assert BROKEN[case][-1] in refused.stderr
    caplog.clear()
    assert "frames" in names_of(_options_of_rewards())
    warned = [one for one in caplog.messages if "bad 2.0" in one]
    assert len(warned) == (1 if BROKEN[case][0] == "gpa.rewards" else 0)
