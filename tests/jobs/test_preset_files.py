"""Presets of the user's own files, and what a run remembers of the preset that it was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from jobs.main import named_command
from jobs.settings.layers import NOT_SETTINGS
from jobs.settings.presets import (
    DEFAULT,
    PRESET_SECTIONS,
    find_preset,
    load_preset,
    load_recipe,
    of_run,
    preset_names,
    preset_of,
)
from storage.errors import UserError
from storage.run import Run
from tests.jobs.test_cli import gpa
from tests.jobs.test_recipes import parsed

OLD_RUN = Path(__file__).parent.parent / "fixtures" / "run_at_2_12_1" / "run"
LARGE = "wan2.1-t2v-1.3b"


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("preset", preset_names())
def test_every_key_of_a_preset_is_an_option(preset: str) -> None:
    for section, options in load_preset(preset).items():
        assert section in PRESET_SECTIONS
        command: click.Command = named_command(section)
        assert set(options) <= {str(one.name) for one in command.params} - NOT_SETTINGS


def test_a_file_changes_what_it_extends(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"extends: {LARGE}\n"
        "sample: {model: /models/mine, steps: 30}\nscore: {photometric: null}\ntrain-dpo: {lr: 1e-5}\n",
    )
    mine, base = find_preset(str(path)), load_preset(LARGE)
    assert mine.sections["sample"] == base["sample"] | {"model": "/models/mine", "steps": 30}
    assert mine.sections["pair"] == base["pair"]
    assert "photometric" in base["score"]
    assert "photometric" not in mine.sections["score"], "null leaves an option to the command"
    assert mine.sections["train-dpo"]["model"] == "/models/mine", "what is sampled is trained"
    assert mine.sections["train-dpo"]["lr"] == 1e-5, "to YAML 1e-5 is a text"
    assert parsed("sample", "--preset", str(path))["steps"] == 30
    assert parsed("sample", "--preset", str(path), "--steps", "7")["steps"] == 7


def test_files_extend_files_relative_to_them_and_recipes_know_them(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    written(tmp_path / "below", "extends: ../mine.yaml\nsample: {steps: 5}", "other.yml")
    written(tmp_path, "extends: world\nsample: {guidance: 2.0}")
    other = find_preset(str(tmp_path / "below" / "other.yml"))
    assert (other.sections["sample"]["steps"], other.sections["sample"]["guidance"]) == (5, 2.0)
    world = load_recipe("gap-double", "world").changes
    assert load_recipe("gap-double", other).changes == world, "what is in units of the world's reward"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "extends: nothing",
            r"mine.yaml: extends must be the preset or YAML file that .*, got .nothing.: there",
        ),
        ("extends: wrold", r"got 'wrold': did you mean world\? there are"),
        (
            "sample: {steps: 3}",
            r"mine.yaml: extends must be the preset or YAML file .*, got .None.: there",
        ),
        ("extends: mine.yaml", r"preset '.*mine.yaml' extends '.*mine.yaml', which extends itself"),
        ("extends: no.yaml", r"a preset cannot be read from .*no.yaml"),
        ("- world", r"mine.yaml must map sections, got list"),
        ("extends: world\nsampel: {}", r"mine.yaml has 'sampel': did you mean sample\? it may have evaluate"),
        ("extends: world\npair: 3", r"mine.yaml: pair must map options to values, got 3"),
        (
            "extends: world\npair: {min_gpa: 1}",
            r"mine.yaml: pair.min_gpa is no option of gpa pair: did you mean min_gap\?",
        ),
        ("extends: world\npair: {run: x}", r"mine.yaml: pair.run is no option of gpa pair"),
        ("extends: world\npair: {min_gap: much}", r"mine.yaml: pair.min_gap got 'much': .*not a valid float"),
        ("extends: world\npair: {strategy: best}", r"pair.strategy got 'best': .* 'best-worst', 'all'"),
        ("extends: world\npair: {top_k: [1, 2]}", r"pair.top_k got \[1, 2\]: give one value"),
        ("extends: world\nevaluate: {judges: none}", r"evaluate.judges got 'none': give a list"),
        ("extends: {", r"a preset cannot be read from .*mine.yaml"),
    ],
)
def test_a_file_that_cannot_be_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=message):
        find_preset(str(path))
    done = gpa("pair", tmp_path, "--preset", path)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1


def run_with(folder: Path, preset: str) -> Path:
    run = Run.create_or_open(folder / "run")
    run.record("sample", {}, preset=find_preset(preset).remembered())
    return run.path


def test_a_run_remembers_its_preset(tmp_path: Path) -> None:
    run = run_with(tmp_path, LARGE)
    assert parsed_in(run, "score")["geometry"] == "vggt"
    assert parsed_in(run, "score", "--preset", "world")["geometry"] == "world"
    Run.open(run).record("sample", {}, preset=find_preset("world").remembered())
    assert preset_of(None, run).name == LARGE, "the first one stays"
    assert preset_of("world", run).name == "world"
    assert preset_of(None, tmp_path / "nothing").name == DEFAULT


def parsed_in(run: Path, name: str, *words: str) -> dict[str, Any]:
    command = named_command(name)
    with command.make_context(name, [str(run), *words]) as ctx:
        return dict(ctx.params)


def test_a_run_does_not_need_the_file_of_its_preset(tmp_path: Path) -> None:
    path = written(tmp_path, f"extends: {LARGE}\npair: {{max_error: .inf, min_gap: 0.25}}")
    run = run_with(tmp_path, str(path))
    before = find_preset(str(path))
    path.unlink()
    assert of_run(run) == before
    chosen = parsed_in(run, "pair")
    assert (chosen["min_gap"], chosen["max_error"], str(chosen["preset"])) == (0.25, float("inf"), str(path))


def test_another_preset_is_refused_where_it_would_mix_models(tmp_path: Path) -> None:
    run = run_with(tmp_path, LARGE)
    done = gpa("sample", run, "--preset", "world")
    assert done.exit_code == 1
    assert f"was made with preset {LARGE}, this command names world, which samples world" in done.stderr
    assert "leave out --preset, or give another run directory" in done.stderr
    said = gpa("pair", run, "--preset", "world")
    assert f"note: {run} was made with preset {LARGE}, this command names world" in said.stderr
    assert "note:" not in gpa("pair", run, "--preset", LARGE).stderr
    path = written(tmp_path, f"extends: {LARGE}\nsample: {{steps: 3}}")
    assert "note:" in gpa("sample", run, "--preset", path, "--help").stderr, "of the same model"


def test_a_run_from_before_has_the_preset_of_its_commands(tmp_path: Path) -> None:
    assert preset_of(None, OLD_RUN).name == "world"
    old = Run.create_or_open(tmp_path / "run").path
    header = yaml.safe_load((old / "run.yaml").read_text())
    for commands, expected in (
        ({}, DEFAULT),
        ({"pair": {"config": {"preset": "world"}}, "sample": {"config": {"preset": LARGE}}}, LARGE),
        ({"sample": {"config": {"preset": "gone"}}}, DEFAULT),
    ):
        (old / "run.yaml").write_text(yaml.safe_dump(header | {"commands": commands}, explicit_end=True))
        assert preset_of(None, old).name == expected
