"""gpa train-dpo from the command line: how it begins and ends, goes on, and is started beside other files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.progress import TrainingProgress
from jobs.training.console import beginning, end_of, learned, step_reporter
from tests.jobs.test_cli import gpa
from tests.jobs.test_old_run import FIXTURE
from trainer.config import TrainConfig
from trainer.saving.saved import Ending, TrainResult

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--batch-size", 1, "--threads", 1, "--rank", 4, "--alpha", 4, "--report-to", "none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with pairs and a training `first` of three steps."""
    run = Path(shutil.copytree(FIXTURE / "run", tmp_path_factory.mktemp("training") / "run"))
    done = gpa("train-dpo", run, *SHORT, "--steps", 3, "--name", "first", "--checkpoint-every", 2)
    assert done.exit_code == 0, done.output
    (run / "said").write_text(done.stderr + done.stdout)
    return run


def trained(run: Path, *words: object) -> tuple[dict[str, Any], str]:
    done = gpa("train-dpo", run, *SHORT, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def test_it_says_how_it_begins_how_it_goes_and_what_was_learned(run: Path) -> None:
    said = (run / "said").read_text()
    assert "9 pairs, 3 steps of 1: 0.33 epochs\n" in said
    assert "the warm-up of 20 steps is longer than the training: it takes all of its steps\n" in said
    assert "train-dpo: 1 of 3, loss 0.6931, margin 0, accuracy 0.5, lr 0.0001333\n" in said
    assert "train-dpo: 3 of 3, loss " in said
    assert "learned: " in said
    assert said.endswith(f"adapter after 3 steps: {run / 'train' / 'first' / 'adapter'}\n")


def test_it_goes_on_from_an_adapter_and_is_finished_early(run: Path) -> None:
    first = run / "train" / "first"
    done, said = trained(
        run, "--steps", 4, "--name", "second", "--from-adapter", first, "--checkpoint-every", 2
    )
    assert f"note: of the training {first}, adapter is taken\n" in said
    note = json.loads((Path(done["adapter"]) / "adapter.json").read_text())["training"]
    assert (note["start"]["name"], note["total_steps"]) == ("first", 7)
    wrong = gpa("train-dpo", run, *SHORT, "--rank", 8, "--from-adapter", first, "--name", "third")
    assert wrong.exit_code == 1
    assert wrong.stderr.endswith("adapter.json: rank is 4, this training has 8: give --rank 4\n")
    early, _ = trained(run, "--steps", 9, "--name", "second", "--from-adapter", first / "adapter", "--finish")
    assert early["ended"] == {"by": "finish", "after": 4, "of": 9, "patience": None}


def test_a_training_may_be_named_for_its_adapter(run: Path) -> None:
    copy = Path(shutil.copytree(run / "train" / "first", run / "train" / "half"))
    shutil.rmtree(copy / "adapter")
    words = ["--num-prompts", 1, "--steps", 2, "--workers", 0, "--dry-run"]
    done = gpa("sample", run, *words, "--adapter", copy)
    assert done.exit_code == 0, done.output
    assert f"note: of the training {copy}, checkpoints/step-00000003 is taken\n" in done.stderr
    done = gpa("evaluate", run, "--adapter", f"half={copy}", "--num-prompts", 1, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "checkpoints/step-00000003 is taken" in done.stderr


class FakeHub:
    """The two calls that an upload makes."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.files: list[str] = []
        self.broken = False

    def create_repo(self, repo: str, **options: Any) -> Any:
        self.made.append({"repo": repo, **options})
        return SimpleNamespace(repo_id=repo, __str__=lambda: repo)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert commit_message
        if self.broken:
            raise OSError("no route to host")
        self.files = sorted(path.name for path in folder_path.iterdir())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    return fake


def test_adapter_and_card_are_uploaded(run: Path, hub: FakeHub) -> None:
    words = ("--steps", 3, "--name", "first", "--push-to-hub", "me/mine")
    trained(run, *words)
    trained(run, *words, "--public")
    assert [(one["repo"], one["private"]) for one in hub.made] == [("me/mine", True), ("me/mine", False)]
    assert hub.files == ["README.md", "adapter.json", "pytorch_lora_weights.safetensors", "trained_on.json"]
    hub.broken = True
    failed = gpa("train-dpo", run, *SHORT, *words)
    assert failed.exit_code == 1
    assert "was not uploaded to me/mine (no route to host): the adapter is there; try again" in failed.stderr


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("me/mine", None, "error: --push-to-hub me/mine needs a token of the Hugging Face Hub"),
        ("me/mine/and more", "hf_x", "error: --push-to-hub 'me/mine/and more' is no name of a repository"),
    ],
)
def test_what_an_upload_needs_is_asked_for_before_training(
    repo: str, token: str | None, message: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    done = gpa("train-dpo", run, *SHORT, "--steps", 3, "--name", "none", "--push-to-hub", repo)
    assert done.exit_code == 1
    assert done.stderr.startswith(message)
    assert not (run / "train" / "none").exists()


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model_dir=tmp_path, model="m", revision="r", pairs_dir=tmp_path, out_dir=tmp_path, steps=100, warmup=0
    )


def test_many_epochs_are_warned_of(config: TrainConfig) -> None:
    assert beginning(config, 40, 0) == ["40 pairs, 100 steps of 8: 20 epochs"]
    line, warning = beginning(config, 20, 0)
    assert line == "20 pairs, 100 steps of 8: 40 epochs"
    assert warning.startswith("warning: every pair is seen 40 times, and beyond about 20 an adapter learns")
    assert beginning(config, 40, 60)[-1] == "train-dpo: 60 of 100 steps are there, 40 to do"
    weighed = replace(config, winner_weight=0.5)
    assert beginning(weighed, 40, 0)[1].endswith("below 0 is no error")


def test_what_was_learned_is_one_line(config: TrainConfig) -> None:
    def result(**metrics: float) -> TrainResult:
        ending = Ending(by="patience", after=60, of=100, patience=3)
        return TrainResult(adapter_dir=Path("a"), steps=30, metrics=metrics, ending=ending)

    told = result(accuracy=0.75, margin=-0.00123, **{"val/accuracy": 0.5})
    assert learned(told, config) == (
        "learned: 75% of the last pairs and 50% of held-out ones are told apart better than by the base "
        "(50% is nothing learned); margin -0.0012"
    )
    continued = replace(config, from_adapter=Path("x"))
    assert "than by the adapter it continues" in str(learned(told, continued))
    assert learned(result(winner_error=0.5), config) == "learned: the error of the last winners is 0.5"
    assert learned(result(), config) is None
    first, second = end_of(told).split("\n")
    assert first == (
        "ended after 60 of 100 steps: the held-out loss had not fallen in 3 looks; "
        "the adapter is that of the best"
    )
    assert second == "adapter after 30 steps: a"


def test_steps_are_shown_now_and_then_with_their_pace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("jobs.progress.time.monotonic", lambda: now)
    with TrainingProgress() as progress:
        report = step_reporter(progress, 100)
        for step in range(1, 101):
            report(step, {"loss": -0.5, "margin": -1e-6, "seconds": 4.0, "lr": 5e-6, "saturated": 0.0})
            now += 4.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train-dpo: 1 of 100, loss -0.5, margin -1e-06, lr 5e-06"
    # Every eighth step of four seconds is more than thirty after the one before.
    assert lines[1] == "train-dpo: 9 of 100, loss -0.5, margin -1e-06, lr 5e-06, 4.00 s/step, 6:04 left"
    assert lines[-1] == "train-dpo: 100 of 100, loss -0.5, margin -1e-06, lr 5e-06, 4.00 s/step"
    assert len(lines) == 1 + 12 + 1


def shadowed(tmp_path: Path, *names: str) -> Path:
    """A folder of a user's own with files that are called as packages of gpa."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.py").write_text("raise SystemExit('the file of the user')\n")
    return folder


def started(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"} | environment
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=paths,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_module_is_started_beside_files_of_the_same_names(tmp_path: Path) -> None:
    folder = shadowed(tmp_path, "trainer", "storage", "pipeline", "rewards")
    done = started(folder, "-m", "jobs.main", "train-dpo", "--help")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Train a LoRA adapter" in done.stdout
    hidden = started(folder, "-m", "jobs.main", "train-dpo", "--help", PYTHONPATH=f"{folder}:{ROOT}")
    assert hidden.returncode == 1
    assert hidden.stderr == (
        f"error: {folder}/storage.py hides the package storage of gpa: start it as $(which gpa), and leave "
        "that folder out of PYTHONPATH\n"
    )


def test_a_launcher_starts_the_script_beside_any_files(tmp_path: Path) -> None:
    folder = shadowed(tmp_path, "jobs", "trainer", "storage", "pipeline", "rewards")
    script = tmp_path / "gpa"
    # As pip writes it.
    script.write_text("import sys\nfrom jobs.main import main\nsys.exit(main())\n")
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1")
    plain = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    done = started(folder, *launcher, *plain, str(script), "train-dpo", "--help")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Train a LoRA adapter" in done.stdout
