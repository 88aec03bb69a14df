"""What is missing is said at once and before work; what takes long is told to whoever watches."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.components import require_components
from pipeline.models import resolve_model
from pipeline.requirements import require_all
from pipeline.scoring.settings import RewardSettings
from pipeline.telling import tell, tell_import, told_to
from rewards.errors import RewardError
from storage.errors import UserError
from tests.jobs.test_cli import gpa, tiny_options
from tests.jobs.test_old_run import FIXTURE


def refuse(error: Exception) -> None:
    raise error


def test_one_fault_is_raised_as_it_is_and_several_as_one() -> None:
    require_all(lambda: 1)
    one = RewardError("no geometry")
    with pytest.raises(RewardError) as raised:
        require_all(lambda: refuse(one), lambda: 1, lambda: refuse(RewardError("no geometry")))
    assert raised.value is one
    with pytest.raises(UserError, match=r"2 things are missing: \(1\) no geometry\. \(2\) no model\.$"):
        require_all(lambda: refuse(one), lambda: refuse(UserError("no model")))
    with pytest.raises(
        UserError, match=r"3 things are missing: \(1\) no geometry\. \(2\) no model\. \(3\) no judge\.$"
    ):
        require_all(
            lambda: refuse(UserError("no geometry.")),
            lambda: require_all(lambda: refuse(UserError("no model")), lambda: refuse(UserError("no judge"))),
        )


def test_a_reward_names_its_geometry_and_its_backbone_together(tmp_path: Path) -> None:
    weights = tmp_path / "vgg16.pth"
    settings = RewardSettings(
        geometry_model=str(tmp_path), perceptual_weights=weights, options={"perceptual": "lpips-vgg"}
    )
    with pytest.raises(
        UserError, match=rf"backbone {weights} is missing.*geometry weights in {tmp_path} are"
    ):
        settings.describe()


def test_an_evaluation_names_all_before_it_samples(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FIXTURE / "run", tmp_path / "run"))
    result = gpa(
        "evaluate", run, "--model", tmp_path / "none", "--judge", f"world={tmp_path}", "--workers", 0
    )
    assert result.exit_code == 1
    assert "2 things are missing" in result.stderr
    assert f"{tmp_path}/none" in result.stderr
    assert f"geometry weights in {tmp_path} are missing" in result.stderr
    assert not (run / "eval").exists()


def test_all_files_that_a_model_lacks_are_named_before_any_is_loaded(
    tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    require_components(resolve_model(str(model)))
    for component in ("transformer", "vae"):
        next((model / component).glob("*.safetensors")).unlink()
    result = gpa("sample", tmp_path / "run", *tiny_options(model, prompts_file))
    assert result.exit_code == 1
    assert "it lacks transformer/*.safetensors, vae/*.safetensors: get its files again" in result.stderr


def test_what_takes_long_is_told_once_to_who_listens() -> None:
    heard: list[str] = []
    tell("nobody listens")
    with told_to(heard.append):
        tell("loading weights")
        tell("loading weights")
        tell_import("sys")
        tell_import("sys", "gpa_nowhere")
    tell("nobody listens any more")
    assert heard == ["loading weights", "importing sys, gpa_nowhere"]
