"""What all tests share: one thread a process, tiny models of the real classes, and prompts for them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

PROMPTS = 3

# Before anything loads OpenMP, and for every process that a test starts: the matrices here are too small to
# be shared by threads, and processes with a thread a core each would only wait for one another.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

pytest_plugins = ["tests.process_state", "tests.long_tests"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image-to-video model folder: 32x32 pixels, 9 frames, latents [3, 4, 4, 4]."""
    from tests.pipeline.tiny import build

    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_geometry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small geometry network for 32x32 pixels, of random weights."""
    import torch

    from rewards.geometry.world.network import WorldGeometry, WorldGeometryConfig

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("geometry") / "world"
    WorldGeometry(WorldGeometryConfig(image_size=32, width=16, heads=2, layers=1)).save_pretrained(folder)
    return folder


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    """A few prompts of the train split with a first frame each."""
    return write_prompts(tmp_path / "prompts", PROMPTS)


def write_prompts(folder: Path, count: int) -> Path:
    """Write `count` prompts, whose scenes are all in the train split, and their first frames."""
    from storage.media.pictures import write_image
    from storage.tables.ids import split_of

    generator = np.random.default_rng(0)
    scenes = (
        name for name in (f"scene-{number}" for number in range(10 * count)) if split_of(name) == "train"
    )
    lines = []
    for number in range(count):
        write_image(folder / f"{number}.png", generator.integers(0, 256, (24, 40, 3), dtype=np.uint8))
        prompt = {"text": f"a quiet hall {number}", "image": f"{number}.png", "scene_id": next(scenes)}
        lines.append(json.dumps({**prompt, "camera_motion": ["pan"], "metadata": {"number": number}}))
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
