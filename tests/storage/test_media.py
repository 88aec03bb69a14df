"""Media come back as written, and what is damaged or not finite is refused by name."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.errors import UserError
from storage.media import tensors
from storage.media.pictures import read_image, write_image
from storage.media.tensors import read_tensors, read_tensors_and_metadata, write_tensors
from storage.media.video import read_video, write_video


def textured_clip(frames: int, height: int, width: int, blur: int) -> np.ndarray:
    """A moving window over coloured noise, smoothed `blur` times, stretched to the full range."""
    texture_HW3 = np.random.default_rng(0).random((height + 40, width + 40, 3))
    for _ in range(blur):
        for axis in (0, 1):
            texture_HW3 = (texture_HW3 + np.roll(texture_HW3, 1, axis) + np.roll(texture_HW3, -1, axis)) / 3
    texture_HW3 = (texture_HW3 - texture_HW3.min()) / (texture_HW3.max() - texture_HW3.min())
    clip = [texture_HW3[t : t + height, 2 * t : 2 * t + width] for t in range(frames)]
    return (np.stack(clip) * 255).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 65), (96, 160)])
@pytest.mark.parametrize("blur", [0, 1, 4])
def test_a_video_is_visually_lossless(tmp_path: Path, height: int, width: int, blur: int) -> None:
    frames_THW3 = textured_clip(9, height, width, blur)
    write_video(tmp_path / "a.mp4", frames_THW3, 8)
    read = read_video(tmp_path / "a.mp4")
    assert (read.shape, read.dtype) == (frames_THW3.shape, np.uint8)
    assert psnr(read, frames_THW3) >= 40
    assert psnr(read[-1], frames_THW3[-1]) >= (40 if blur else 39)


def test_a_video_keeps_its_colours_rate_and_bytes(tmp_path: Path) -> None:
    import av

    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50)]
    frames_THW3 = np.stack([np.full((32, 32, 3), colour, dtype=np.uint8) for colour in colours])
    write_video(tmp_path / "a.mp4", frames_THW3, 16)
    write_video(tmp_path / "b.mp4", frames_THW3, 16)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert np.abs(read_video(tmp_path / "a.mp4").astype(int) - frames_THW3).max() <= 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.frames) == ("h264", 16, 6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.98])
def test_a_truncated_video_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, textured_clip(9, 64, 64, 1), 8)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(
        UserError, match=f"{path} cannot be read as a video .*delete it and the shard that names"
    ):
        read_video(path)


@pytest.mark.parametrize(
    ("frames", "fps", "says"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), 8, r"must be uint8 \[T,H,W,3\], got float32"),
        (np.zeros((2, 3, 4, 4), np.uint8), 8, r"must be uint8 \[T,H,W,3\], got uint8 \(2, 3, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8, "needs frames and fps > 0"),
        (np.zeros((2, 4, 4, 3), np.uint8), 0, "needs frames and fps > 0"),
    ],
)
def test_what_is_no_clip_is_refused(tmp_path: Path, frames: np.ndarray, fps: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        write_video(tmp_path / "a.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_lossless_and_read_as_rgb(tmp_path: Path) -> None:
    image_HW3 = textured_clip(1, 33, 47, 0)[0]
    write_image(tmp_path / "a.png", image_HW3)
    assert np.array_equal(read_image(tmp_path / "a.png"), image_HW3)
    Image.fromarray(image_HW3[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (33, 47, 3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("not an image"),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = tmp_path / "a.png"
    write_image(path, textured_clip(1, 64, 64, 0)[0])
    spoil(path)
    with pytest.raises(UserError, match=f"{path} cannot be read as an image .*give a PNG or JPEG file"):
        read_image(path)


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPES), st.booleans())
def test_a_tensor_survives_as_bytes(shape: list[int], dtype: torch.dtype, transposed: bool) -> None:
    tensor = (torch.randn(shape) * 50).abs().to(dtype)
    if transposed and tensor.ndim >= 2:
        tensor = tensor.transpose(0, 1)
    again = tensors.to_tensor(tensors.from_tensor(tensor))
    assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(again, tensor)


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "media" / "a.safetensors"
    given = {"latents": torch.randn(2, 3).to(torch.bfloat16).T, "steps": torch.arange(4)}
    write_tensors(path, given, {"candidate_id": "c"})
    read, metadata = read_tensors_and_metadata(path)
    assert metadata == {"candidate_id": "c"}
    assert all(torch.equal(read[name], tensor) for name, tensor in given.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused_when_written_and_when_read(tmp_path: Path, bad: float) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    spoiled = {"fine": torch.zeros(2), "latents": torch.tensor([0.0, bad])}
    says = f"{path}: tensor 'latents' holds NaN or infinity in 1 of 2 numbers"
    with pytest.raises(UserError, match=says):
        write_tensors(path, spoiled, {})
    assert not path.exists()
    save_file(spoiled, path)
    with pytest.raises(UserError, match=says):
        read_tensors(path)
    with pytest.raises(ValueError, match="tensor holds NaN or infinity"):
        tensors.from_tensor(spoiled["latents"])


@pytest.mark.parametrize("share", [None, 0.0, 0.2, 0.9])
def test_a_bad_tensor_file_is_named(tmp_path: Path, share: float | None) -> None:
    path = tmp_path / "a.safetensors"
    if share is not None:
        write_tensors(path, {"latents": torch.zeros(100)}, {})
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=f"{path} cannot be read as safetensors .*delete it and the shard"):
        read_tensors(path)


def test_an_image_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", textured_clip(1, 33, 47, 0)[0])
    assert read_image(tmp_path / "a.png", 33 * 47).shape == (33, 47, 3)
    with pytest.raises(UserError, match="has 47x33 pixels, more than 1550: make it smaller"):
        read_image(tmp_path / "a.png", 33 * 47 - 1)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x04\x95", b"\xff" * 8, b"\0" * 8])
def test_an_archive_or_a_pickle_is_no_tensor_file_whatever_its_name(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(start + b"x" * 200)
    with pytest.raises(UserError, match=f"{path} cannot be read as safetensors"):
        read_tensors(path)


ENCODE = """
import hashlib, io
from fractions import Fraction
import numpy as np
from storage.media.video import encode

yy, xx = np.mgrid[:64, :64]
frames = [np.stack([(xx * 7 + 3 * t) % 256, (yy * 5 + xx * t) % 256, (xx * yy) % 256], -1) for t in range(9)]
encoded = io.BytesIO()
encode(encoded, np.stack(frames).astype(np.uint8), Fraction(8))
print(hashlib.sha256(encoded.getvalue()).hexdigest())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="MALLOC_PERTURB_ is glibc's")
def test_equal_frames_give_equal_bytes_whatever_the_memory_held_before() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", ENCODE],
            cwd=Path(__file__).resolve().parents[2],
            env=os.environ | {"MALLOC_PERTURB_": fill},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for fill in ("0", "85", "165")
    }
    assert len(digests) == 1
