from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.media.pictures import write_image
from storage.media.tensors import write_tensors
from storage.media.video import is_whole, write_video

_FRAMES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    write_video(folder / "a.mp4", _FRAMES, 8)
    write_image(folder / "a.png", _FRAMES[0])
    write_tensors(folder / "a.safetensors", {"x": torch.ones(3, 5), "y": torch.zeros(2)}, {"id": "a"})
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".mp4", ".png", ".safetensors"])
def test_what_is_written_is_whole(files: dict[str, bytes], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(files[suffix])
    assert is_whole(path)
    assert not is_whole(tmp_path / f"missing{suffix}")


@pytest.mark.parametrize("suffix", [".mp4", ".png", ".safetensors"])
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_file_cut_anywhere_is_not_whole(
    files: dict[str, bytes], suffix: str, tmp_path: Path, share: float
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(files[suffix][: int(share * len(files[suffix]))])
    assert not is_whole(path)


@pytest.mark.parametrize("suffix", [".mp4", ".png", ".safetensors"])
@given(data=st.binary(max_size=64))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_foreign_bytes_are_not_whole(suffix: str, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    assert not is_whole(path)


def test_another_kind_of_file_need_only_exist(tmp_path: Path) -> None:
    (tmp_path / "a.webm").write_bytes(b"")
    assert is_whole(tmp_path / "a.webm")
    assert not is_whole(tmp_path / "b.webm")
