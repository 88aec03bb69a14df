"""An empty run and a source with one good video, whose import hostile neighbours must not spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.run import Run
from tests.importing.clips import folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One good video, whose import every test asks for too."""
    return folder(tmp_path / "videos", prompts=1, seeds=1, first_frames=False)
