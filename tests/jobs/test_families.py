"""Every family goes the whole way from the command line, at a small size with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from jobs.main import cli
from storage.media.tensors import read_tensors
from storage.media.video import read_video
from storage.run import Run
from tests import tiny_wan
from tests.pipeline import tiny


@dataclass(frozen=True)
class Kind:
    """A family: how its folder is built, the frame size, and whether its prompts carry a first frame."""

    build: Callable[[Path], Path]
    height: int
    width: int
    image: bool


FAMILIES = {
    "cogvideox": Kind(lambda path: tiny.build(path, text_only=True), 32, 32, image=False),
    "cogvideox-i2v": Kind(tiny.build, 32, 32, image=True),
    "cogvideox1.5": Kind(
        lambda path: tiny.build(path, text_only=True, version_1_5=True), 32, 32, image=False
    ),
    "cogvideox1.5-i2v": Kind(lambda path: tiny.build(path, version_1_5=True), 32, 32, image=True),
    "wan2.1-t2v": Kind(lambda path: tiny_wan.build(path, "t2v"), *tiny_wan.size("t2v"), image=False),
    "wan2.1-i2v": Kind(lambda path: tiny_wan.build(path, "i2v"), *tiny_wan.size("i2v"), image=True),
    "wan2.2-ti2v, text": Kind(lambda path: tiny_wan.build(path, "ti2v"), *tiny_wan.size("ti2v"), image=False),
    "wan2.2-ti2v, image": Kind(lambda path: tiny_wan.build(path, "ti2v"), *tiny_wan.size("ti2v"), image=True),
}


def gpa(*words: Any) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def prompts_of(source: Path, folder: Path, *, image: bool) -> Path:
    """The prompts, without their first frames for a model that takes none."""
    if image:
        return source
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    path = folder / "text.jsonl"
    path.write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k != "image"}) + "\n" for line in lines)
    )
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_from_prompts_to_an_adapter_that_changes_the_videos(
    name: str, tmp_path: Path, prompts_file: Path
) -> None:
    kind, run = FAMILIES[name], tmp_path / "run"
    model = kind.build(tmp_path / "model")
    sample = ["--model", model, "--prompts", prompts_of(prompts_file, tmp_path, image=kind.image)]
    sample += ["--candidates", 2, "--steps", 3, "--guidance", 3, "--num-frames", 9, "--workers", 0]
    sample += ["--height", kind.height, "--width", kind.width, "--max-sequence-length", 8, "--json"]
    assert gpa("sample", run, *sample)["done"] == 6
    assert gpa("score", run, "--reward", "random", "--any-footage", "--workers", 0, "--json")["done"] == 6
    loose = [
        "--min-gap",
        0,
        "--max-motion-ratio",
        "inf",
        "--min-image-motion",
        0,
        "--min-sharpness",
        0,
        "--max-fade",
        1,
    ]
    pair = gpa("pair", run, "--reward", "random", *loose, "--min-coverage", 0, "--json")
    assert pair["pairs"] == 3
    train = ["--model", model, "--steps", 3, "--warmup", 0, "--lr", 0.05, "--batch-size", 2, "--rank", 4]
    trained = gpa("train-dpo", run, *train, "--gradient-checkpointing", "on", "--json")
    adapter = Path(trained["adapter"])
    weights = load_file(adapter / "pytorch_lora_weights.safetensors")
    assert all(float(value.abs().max()) > 0 for key, value in weights.items() if "lora_B" in key)
    assert gpa("sample", tmp_path / "aligned", *sample, "--adapter", adapter)["done"] == 6
    base, aligned = Run.open(run), Run.open(tmp_path / "aligned")
    before, after = ({row["seed"]: row for row in r.rows("candidates").to_pylist()} for r in (base, aligned))
    assert before.keys() == after.keys()
    for seed, row in before.items():
        one = read_tensors(base.resolve(row["latent_uri"]))["latents"]
        other = read_tensors(aligned.resolve(after[seed]["latent_uri"]))["latents"]
        assert one.shape == other.shape
        assert not torch.equal(one, other)
        assert read_video(base.resolve(row["video_uri"])).shape == (9, kind.height, kind.width, 3)
