"""Values that cannot be are told before anything heavy is imported, let alone loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.jobs.test_cli import gpa
from tests.jobs.test_old_run import FIXTURE

# The command's words behind its run, and what is said of them.
WRONG = {
    "sample --height 100": "--height 100 does not fit model 'world': use a multiple of 8",
    "sample --num-frames 10": "--num-frames 10 does not fit model 'world': use 1 more than a multiple of 8",
    "sample --steps 1001": "--steps 1001 does not fit model 'world', which was trained on 1000 noise levels",
    "sample --guidance nan": "--guidance must be 0 or more",
    "score --geometry vggt --perceptual none": "VGGT weights facebook/VGGT-1B are not on this machine",
    "score --perceptual-weights nowhere": "--perceptual-weights nowhere is no file",
    "evaluate --seeds 0": "--seeds must be at least 1, got 0",
    "evaluate --adapter a=nowhere --adapter b=elsewhere": "2 things are missing: (1) adapter nowhere has no",
    "evaluate --judge vggt --adapter a=nowhere": "fetch them with: hf download facebook/VGGT-1B",
    "import videos --min-first-frame-psnr inf": "--min-first-frame-psnr must be 0 to 99",
    "import videos --max-pixels 2147483648": "--max-pixels must be below 2**31",
    "import videos --model world --width 100": "--width 100 does not fit model 'world'",
}
CODE = """
import json, sys, click.testing
from jobs.main import cli
for words in json.loads(sys.argv[1]):
    said = click.testing.CliRunner().invoke(cli, words)
    heavy = {"torch", "ray", "diffusers"} & set(sys.modules)
    print(json.dumps([said.exit_code, said.stderr, sorted(heavy)]))
"""


def test_wrong_values_are_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FIXTURE / "run", tmp_path / "run"))
    (tmp_path / "videos").mkdir()
    videos = str(tmp_path / "videos")
    words = [[videos if word == "videos" else word for word in one.split()] for one in WRONG]
    calls = [[command, str(run), *rest, "--workers", "0"] for command, *rest in words]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    code = [sys.executable, "-c", CODE, json.dumps(calls)]
    told = subprocess.run(code, capture_output=True, text=True, check=True, env=offline)
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [(code, heavy) for code, _, heavy in lines] == [(1, [])] * len(WRONG)
    for (call, expected), (_, said, _) in zip(WRONG.items(), lines, strict=True):
        assert expected in said, call


def test_a_large_model_without_prompts_does_not_sample_drawn_rooms(tmp_path: Path) -> None:
    words = ["--preset", "cogvideox-5b", "--model", "world", "--workers", "0", "--gpus-per-worker", "0"]
    for more in ([], ["--dry-run"]):
        refused = gpa("sample", tmp_path / "run", *words, *more)
        assert refused.exit_code == 1
        assert "without --prompts they would be the embedded world's, drawn rooms of 64x64" in refused.stderr
        assert "videos of 480x720: give --prompts FILE" in refused.stderr
        assert not (tmp_path / "run" / "prompts").exists()
