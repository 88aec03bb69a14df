"""gpa import from the command line, and every command that goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs.main import cli
from storage.media.pictures import write_image
from storage.run import Run
from storage.tables.ids import split_of
from tests import tiny_wan
from tests.importing.clips import clip, frames
from tests.pipeline import tiny

SCENES = [name for name in (f"scene-{number}" for number in range(20)) if split_of(name) == "train"][:2]
LOOSE = ["--min-gap", 0, "--max-motion-ratio", "inf", "--min-image-motion", 0, "--min-sharpness", 0]
LOOSE += ["--min-coverage", 0, "--reward", "random", "--json"]


def gpa(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


def good(*words: Any) -> dict[str, Any]:
    result = gpa(*words)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def manifest(root: Path, height: int, width: int, *, image: bool) -> Path:
    """Two prompts of the train split with two videos each."""
    lines = []
    for number, scene in enumerate(SCENES):
        line: dict[str, Any] = {"prompt": f"a quiet hall {number}", "scene_id": scene}
        if image:
            write_image(root / f"{number}.png", frames(number, 1, height, width)[0])
            line["first_frame"] = f"{number}.png"
        for seed in range(2):
            name = f"{number}-{seed}.mp4"
            clip(root / name, seed=10 * number + seed, height=height, width=width)
            lines.append(json.dumps(line | {"seed": seed, "path": name}))
    path = root / "videos.jsonl"
    path.write_text("\n".join(lines))
    return path


Family = tuple[Callable[[Path], Path], int, int, bool]
FAMILIES: dict[str, Family] = {
    "cogvideox-i2v": (tiny.build, 32, 32, True),
    "cogvideox1.5-i2v": (lambda path: tiny.build(path, version_1_5=True), 32, 32, True),
    "wan2.1-t2v": (lambda path: tiny_wan.build(path, "t2v"), *tiny_wan.size("t2v"), False),
    "wan2.1-i2v": (lambda path: tiny_wan.build(path, "i2v"), *tiny_wan.size("i2v"), True),
    "wan2.2-ti2v": (lambda path: tiny_wan.build(path, "ti2v"), *tiny_wan.size("ti2v"), True),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_imported_videos_train_an_adapter(name: str, tmp_path: Path) -> None:
    build, height, width, image = FAMILIES[name]
    run, model = tmp_path / "run", build(tmp_path / "model")
    source = manifest(tmp_path / "videos", height, width, image=image)
    size = ["--height", height, "--width", width, "--num-frames", 9, "--max-sequence-length", 8]
    words = ["import", run, source, "--model", model, *size, "--workers", 0, "--json"]
    planned = good(*words, "--dry-run")
    assert (planned["prompts"], planned["missing"], planned["refused"]) == (2, 4, 0)
    # The files, and the latents of each.
    assert planned["bytes"] > sum(p.stat().st_size for p in source.parent.glob("*.mp4"))
    assert not run.exists()
    assert good(*words)["done"] == 4
    assert good("score", run, "--reward", "random", "--any-footage", "--workers", 0, "--json")["done"] == 4
    assert good("pair", run, *LOOSE)["pairs"] == 2
    train = ["--model", model, "--steps", 2, "--warmup", 0, "--batch-size", 2, "--rank", 2, "--json"]
    assert Path(good("train-dpo", run, *train)["adapter"]).is_dir()
    recorded = Run.open(run).header()["commands"]["import"]["config"]
    assert recorded["source"] == str(source)
    # Candidates of the model itself go beside them.
    sample = ["--prompts", tmp_path / "prompts.jsonl", "--candidates", 1, "--steps", 2, *size[:-2]]
    keys = {"text": "a quiet hall 0", "scene_id": SCENES[0]}
    keys |= {"image": "videos/0.png"} if image else {}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(keys))
    sample += ["--max-sequence-length", 8, "--model", model, "--workers", 0, "--json"]
    assert good("sample", run, *sample)["done"] == 1
    assert len(Run.open(run).rows("prompts")) == 2


def test_without_a_model_there_is_an_index_and_a_word_on_what_training_needs(
    tmp_path: Path, tiny_model: Path
) -> None:
    run, source = tmp_path / "run", manifest(tmp_path / "videos", 32, 32, image=True)
    assert good("import", run, source, "--link", "--workers", 0, "--json")["done"] == 4
    assert good("score", run, "--reward", "random", "--any-footage", "--workers", 0, "--json")["done"] == 4
    refused = gpa("pair", run, *LOOSE)
    assert refused.exit_code == 1
    assert "has no latents (imported without a model?): run `gpa import` of its source" in refused.stderr
    assert good("pair", run, *LOOSE, "--index-only")["pairs"] == 2
    # With latents the scores are still those of the videos, and the pairs are whole.
    size = ["--height", 32, "--width", 32, "--num-frames", 9, "--max-sequence-length", 8]
    later = ["import", run, source, "--link", "--model", tiny_model, *size, "--workers", 0, "--json"]
    assert good(*later)["done"] == 4
    assert good("score", run, "--reward", "random", "--any-footage", "--workers", 0, "--json")["present"] == 4
    assert good("pair", run, *LOOSE)["pairs"] == 2


def test_partial_work_exits_with_three_and_wrong_usage_with_one_line(tmp_path: Path) -> None:
    run, source = tmp_path / "run", tmp_path / "videos"
    clip(source / "a hall" / "0.mp4")
    (source / "a hall" / "1.mp4").write_bytes(b"PK\x03\x04")
    shown = gpa("import", run, source, "--dry-run")
    assert shown.exit_code == 0
    assert "1 prompts: 1 videos wanted, 0 are there, 1 to do" in shown.stdout
    assert "1 refused" in shown.stdout
    assert "not-a-video: a hall/1.mp4: is a zip archive, not a video" in shown.stdout
    result = gpa("import", run, source, "--workers", 0)
    assert result.exit_code == 3
    assert "1 videos imported, 0 were there, 1 refused" in result.stdout
    assert "1 videos failed (rejects), the last: a hall/1.mp4: is a zip archive" in result.stderr
    for words, message in (
        (["--max-frames", 0], "--max-frames must be above 0, got 0"),
        (["--fit", "crop"], "--fit crop is for videos that are encoded: give --model NAME"),
        (["--height", 0], "height must be at least 1, got 0"),
        (["--model", "no/such/model"], "is no folder here and no Hub id"),
    ):
        result = gpa("import", run, source, *words)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert gpa("import", run).exit_code == 2


def test_a_preset_says_the_sizes(tmp_path: Path) -> None:
    shown = " ".join(gpa("import", "--preset", "cogvideox-5b", "--help-all").output.split())
    assert "Height of a video. [default: 480]" in shown
    assert "Text tokens. [default: 226]" in shown


@pytest.mark.slow
@pytest.mark.long(
    reason="starts Ray, with two workers that load torch; make test imports in one process, and compares "
    "workers with one process where the engine is the same in pipeline/test_sample.py"
)
def test_ray_workers_give_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    source = manifest(tmp_path / "videos", 32, 32, image=True)
    size = ["--height", 32, "--width", 32, "--num-frames", 9, "--max-sequence-length", 8]
    found = []
    for workers in (0, 2):
        run = tmp_path / f"run{workers}"
        words = ["--model", tiny_model, *size, "--workers", workers, "--batch", 1, "--json"]
        assert good("import", run, source, *words)["done"] == 4
        files = sorted((run / "media").rglob("*.*"))
        found.append({path.relative_to(run): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert len(found[0]) == 4 + 4 + 2 + 2
