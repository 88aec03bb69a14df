from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jobs.main import COMMANDS, cli
from jobs.settings.presets import load_preset, preset_names
from storage.errors import UserError
from storage.media.video import is_whole
from storage.run import Run
from tests.pipeline.tiny import SAMPLER


def gpa(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def tiny_options(model: Path, prompts: Path) -> list[object]:
    sampler = [word for name, value in SAMPLER.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["--model", model, "--prompts", prompts, "--candidates", 3, "--workers", 0, *sampler]


def geometry_options(geometry: Path) -> list[object]:
    return [
        "--geometry",
        "world",
        "--geometry-model",
        geometry,
        "--frames",
        3,
        "--views",
        "all",
        "--workers",
        0,
    ]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from jobs.main import COMMANDS, cli\n"
        "for words in (['--help'], *([name, '--help'] for name in COMMANDS)):\n"
        "    cli(words, standalone_mode=False)\n"
    )
    heavy = {"torch", "ray", "diffusers", "transformers", "duckdb", "pyarrow", "numpy", "pandas", "rich"}
    assert not imported_by(code) & heavy


def test_a_question_imports_only_what_reads_tables() -> None:
    """Half a second, where pandas, torch or the table that csv does not print would each add their own."""
    run = Path(__file__).parents[1] / "fixtures" / "run_at_2_12_1" / "run"
    code = (
        "import sys; from jobs.main import cli\n"
        f"cli(['query', {str(run)!r}, '--csv', 'SELECT count(*) FROM scores'], standalone_mode=False)\n"
    )
    found = imported_by(code)
    assert {"duckdb", "pyarrow"} <= found
    assert not found & {"torch", "ray", "diffusers", "pandas", "pyarrow.dataset", "av", "rich"}


def imported_by(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after this code."""
    told = code + "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_every_command_is_listed_and_says_the_same_in_its_own_help() -> None:
    listing = " ".join(gpa("--help").output.split())
    for name, (_, line) in COMMANDS.items():
        assert name in listing
        assert line in listing
        shown = gpa(name, "--help")
        assert shown.exit_code == 0
        assert "[default" in (gpa(name, "world", "--help") if name == "bench" else shown).output


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_fills_options_that_exist(preset: str) -> None:
    sections = load_preset(preset)
    assert set(sections) <= set(COMMANDS)
    for name in sections:
        assert gpa(name, "--preset", preset, "--help").exit_code == 0
    steps = load_preset(preset)["sample"]["steps"]
    shown = " ".join(gpa("sample", "--preset", preset, "--help").output.split())
    assert f"Denoising steps. [default: {steps}]" in shown


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"preset 'sora' does not exist; choose one of: .*world"):
        load_preset("sora")
    result = gpa("sample", "run", "--preset", "sora")
    assert result.exit_code == 1
    known = ", ".join(preset_names())
    assert (
        result.stderr == f"error: preset 'sora' does not exist; choose one of: {known}; or give a YAML file\n"
    )


def test_wrong_usage_exits_with_two(tmp_path: Path) -> None:
    assert gpa("sample").exit_code == 2
    assert gpa("sample", tmp_path, "--steps", "many").exit_code == 2
    assert gpa("nothing").exit_code == 2


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("smaple", "No such command 'smaple'. Did you mean 'sample'?"),
        ("trian", "No such command 'trian'. Did you mean 'train-dpo'?"),
        ("xyz", "No such command 'xyz'."),
    ],
)
def test_an_unknown_command_says_which_it_may_have_meant(word: str, says: str) -> None:
    assert gpa(word).stderr.splitlines()[-1] == f"Error: {says}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "{tmp}/none"], "there is no run at"),
        (["pair", "{tmp}"], "is not a run"),
        (
            ["sample", "{tmp}/new", "--prompts", "{tmp}/none.jsonl"],
            "has no weights|holds no weights|does not exist",
        ),
        # Said before Ray starts, however many workers there would be.
        (["sample", "{tmp}/new", "--steps", "0"], "steps must be at least 1, got 0"),
        (["sample", "{tmp}/new", "--candidates", "0"], "--candidates must be at least 1, got 0"),
        (["train-dpo", "{tmp}", "--name", "a/b"], "--name must be 1-64 letters, digits, - or _, got 'a/b'"),
    ],
)
def test_errors_are_one_line_and_exit_with_one(tmp_path: Path, words: list[str], message: str) -> None:
    import re

    result = gpa(*(word.format(tmp=tmp_path) for word in words))
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr)


# The rules of the world's preset are for its own model; a model of random weights gives what it gives.
ANY_GAP = ("--min-gap", "0", "--min-motion-ratio", "0", "--max-motion-ratio", "inf")


def test_from_prompts_to_an_adapter(
    tiny_model: Path, tiny_geometry: Path, prompts_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sample = ["sample", run, *tiny_options(tiny_model, prompts_file), "--json"]
    planned = gpa(*sample, "--dry-run")
    told = json.loads(planned.stdout)
    assert {name: told[name] for name in ("prompts", "wanted", "missing")} == {
        "prompts": 3,
        "wanted": 9,
        "missing": 9,
    }
    assert not run.exists()
    assert json.loads(gpa(*sample).stdout)["done"] == 9
    score = ["score", run, *geometry_options(tiny_geometry), "--json"]
    assert json.loads(gpa(*score, "--dry-run").stdout)["missing"] == 9
    scored = gpa(*score)
    assert json.loads(scored.stdout)["done"] == 9, scored.output
    paired = gpa("pair", run, *ANY_GAP, "--json")
    assert paired.exit_code == 0, paired.output
    assert json.loads(paired.stdout)["pairs"] >= 3
    shown = gpa("pair", run, *ANY_GAP)
    assert "candidates lost" in shown.stdout
    assert "(unchanged)" in shown.stdout
    train = [
        "train-dpo",
        run,
        "--model",
        tiny_model,
        "--steps",
        2,
        "--warmup",
        0,
        "--batch-size",
        2,
        "--json",
    ]
    trained = gpa(*train)
    assert trained.exit_code == 0, trained.output
    adapter = Path(json.loads(trained.stdout)["adapter"])
    recorded = Run.open(run).header()["commands"]
    assert set(recorded) == {"sample", "score", "pair", "train-dpo dpo"}
    assert Run.open(run).header()["preset"] == {"name": "world"}
    assert recorded["sample"]["config"]["steps"] == SAMPLER["steps"]
    _sample_with_adapter(run, adapter, tiny_options(tiny_model, prompts_file))


def _sample_with_adapter(run: Path, adapter: Path, options: list[Any]) -> None:
    from storage.media.tensors import read_tensors

    aligned = run.parent / "aligned"
    assert gpa("sample", aligned, *options, "--adapter", adapter).exit_code == 0
    base, other = Run.open(run), Run.open(aligned)
    by_seed = {row["seed"]: row for row in base.rows("candidates").to_pylist()}
    for row in other.rows("candidates").to_pylist():
        assert row["adapter"] is not None
        twin = by_seed[row["seed"]]
        assert twin["candidate_id"] != row["candidate_id"]
        one, two = (read_tensors(r.resolve(c["latent_uri"])) for r, c in ((base, twin), (other, row)))
        assert not one["latents"].equal(two["latents"])


def test_partial_work_exits_with_three(
    tiny_model: Path, tiny_geometry: Path, prompts_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert gpa("sample", run, *tiny_options(tiny_model, prompts_file), "--limit", 1).exit_code == 0
    video = next((run / "media" / "videos").glob("*.mp4"))
    video.write_bytes(video.read_bytes()[:300])
    result = gpa("score", run, *geometry_options(tiny_geometry))
    assert result.exit_code == 3
    assert "1 candidates failed" in result.stderr
    assert "cannot be read as a video" in result.stderr
    # Sampling makes what was cut short again, and the same command scores it.
    assert gpa("sample", run, *tiny_options(tiny_model, prompts_file), "--limit", 1).exit_code == 0
    assert gpa("score", run, *geometry_options(tiny_geometry)).exit_code == 0


@pytest.mark.parametrize("victim", ["candidates", "media/videos", "media/latents", "media/conditions"])
def test_what_was_cut_short_is_made_again_once(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, victim: str
) -> None:
    run = tmp_path / "run"
    command = ["sample", run, *tiny_options(tiny_model, prompts_file), "--limit", 2, "--batch", 3, "--json"]
    gpa(*command)
    path = min((run / victim).glob("*.*"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = gpa(*command)
    assert again.exit_code == 0, again.stderr
    made = 3 if victim == "candidates" else 1
    assert json.loads(again.stdout)["done"] == made
    assert json.loads(gpa(*command).stdout)["done"] == 0
    ids = [name for shard in (run / "candidates").glob("*.parquet") for name in _ids(shard)]
    assert len(ids) == len(set(ids)) == 6
    assert is_whole(path) or victim == "candidates"


def _ids(shard: Path) -> list[str]:
    return pq.read_table(shard)["candidate_id"].to_pylist()
