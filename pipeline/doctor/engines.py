"""The engines: video through FFmpeg and back, rasterisers, LPIPS, Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.doctor.finding import Finding, Needs

_SIDE, _FRAMES = 64, 9
# What write_video promises (storage/media/video.py).
_LEAST_DB = 40.0
_PERCEPTUAL = ("lpips-vgg", "lpips-alex")


def video() -> Iterator[Finding]:
    """A clip written as H.264 and read again."""
    import av

    from storage.media.video import read_video, write_video

    frames_THW3 = _clip()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, frames_THW3, 8)
        back_THW3 = read_video(path)
    error = float(np.mean((back_THW3.astype(float) - frames_THW3) ** 2)) / 255**2
    quality = 10 * np.log10(1 / max(error, 1e-12))
    detail = f"PyAV {av.__version__}, {av.ffmpeg_version_info}, a clip comes back at {quality:.1f} dB"
    if back_THW3.shape == frames_THW3.shape and quality >= _LEAST_DB:
        yield Finding(name="H.264", state="ok", detail=detail)
        return
    remedy = f"rewards would measure the codec below {_LEAST_DB:g} dB: pip install --force-reinstall av"
    yield Finding(name="H.264", state="problem", detail=detail, remedy=remedy, required=True)


def rasterisers(needs: Needs) -> Iterator[Finding]:
    """The built-in one draws a point; PyTorch3D may be missing."""
    import torch

    from rewards.errors import RewardError
    from rewards.rasterise.rasterisers import RASTERISERS, find_rasteriser

    point = (torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3))
    intrinsics = torch.tensor([[[4.0, 0, 2], [0, 4, 2], [0, 0, 1]]])
    for name in RASTERISERS:
        required = name == "torch" or name in needs.rasterisers
        try:
            image, _, _ = find_rasteriser(name)(*point, intrinsics, torch.eye(4)[None, :3], 5, 5)
        except RewardError as error:
            yield Finding(
                name=f"rasteriser {name}",
                state="missing",
                detail="cannot be imported; the built-in one draws the same",
                remedy=str(error).rpartition(": ")[2],
                required=required,
            )
            continue
        if image.max() == 1:
            yield Finding(name=f"rasteriser {name}", state="ok", detail="draws")
        else:
            remedy = "use --rasteriser torch" if name != "torch" else "install gpa and torch anew"
            detail = "draws nothing where a point lies"
            yield Finding(
                name=f"rasteriser {name}", state="problem", detail=detail, remedy=remedy, required=required
            )


def perceptual(needs: Needs) -> Iterator[Finding]:
    """The backbones of LPIPS, whose files must be fetched."""
    from rewards.errors import RewardError
    from rewards.measures.perceptual import require_backbone

    for name in _PERCEPTUAL:
        required = name in needs.perceptuals
        try:
            require_backbone(name)
        except RewardError as error:
            detail, _, remedy = str(error).partition("; ")
            yield Finding(name=name, state="missing", detail=detail, remedy=remedy, required=required)
        else:
            yield Finding(name=name, state="ok", detail="backbone is in torch's cache")


def ray(needs: Needs) -> Iterator[Finding]:
    """Ray can be imported. It is not started: that would listen."""
    try:
        import ray as library
    except ImportError as error:
        yield Finding(
            name="Ray",
            state="missing",
            detail=" ".join(str(error).split()),
            remedy="pip install ray, or use --workers 0 everywhere",
            required=needs.ray,
        )
        return
    detail = f"{library.__version__} can be imported; started by commands with workers, on loopback only"
    yield Finding(name="Ray", state="ok", detail=detail)


def _clip() -> np.ndarray:
    """Smooth colours that move, as far from a codec's worst case as a video is."""
    time, row, column = np.mgrid[:_FRAMES, :_SIDE, :_SIDE] / _SIDE
    waves = [np.sin(6 * (row + column * shift + time)) for shift in (0.5, 1.0, 2.0)]
    return ((np.stack(waves, -1) * 0.5 + 0.5) * 255).round().astype(np.uint8)
