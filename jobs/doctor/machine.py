"""The machine and what runs on it: GPUs, memory, disk, locks; H.264, rasterisers, Ray, LPIPS, each tried."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from jobs.doctor.finding import GIB, Finding, Needs, State
from storage.errors import UserError
from storage.locks import require_locks

_DRIVER = Path("/proc/driver/nvidia/version")
_SHM = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")
_LITTLE_MEMORY, _LITTLE_DISK, _LITTLE_SHM = 2 * GIB, 5 * GIB, 0.2 * GIB
# Ray refuses to start, and nothing can be written, below these.
_NO_MEMORY, _NO_DISK = 0.5 * GIB, 0.25 * GIB


def gpus(needs: Needs) -> Iterator[Finding]:
    """Every GPU that torch can use, tried with a sum; or why there is none."""
    import torch

    driver = _driver()
    wanted = needs.gpus > 0
    if not torch.cuda.is_available():
        yield _no_gpu(driver, torch.version.cuda, wanted)
        return
    count = torch.cuda.device_count()
    if count < needs.gpus:
        remedy = f"use fewer --workers, or a machine with {math.ceil(needs.gpus)} GPUs"
        detail = f"{count} here, the workers take {needs.gpus:g}"
        yield Finding(name="GPUs", state="problem", detail=detail, remedy=remedy, required=True)
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        total = float(torch.ones(8, device=f"cuda:{index}").sum())
        free, memory = torch.cuda.mem_get_info(index)
        detail = (
            f"{about.name}, {memory / GIB:.1f} GiB, {free / GIB:.1f} free, driver {driver or 'unknown'}, "
            f"CUDA {torch.version.cuda}"
        )
        if total == 8:
            yield Finding(name=f"GPU {index}", state="ok", detail=detail)
        else:
            remedy = "it counts wrongly: take it out of CUDA_VISIBLE_DEVICES and have it looked at"
            yield Finding(name=f"GPU {index}", state="problem", detail=detail, remedy=remedy, required=wanted)


def _no_gpu(driver: str | None, cuda: str | None, wanted: bool) -> Finding:
    if driver is None:
        remedy = "use a machine with an NVIDIA GPU and its driver, or the preset world, which needs none"
        return Finding(name="GPU", state="missing", detail="none here", remedy=remedy, required=wanted)
    built = f"is built for CUDA {cuda}" if cuda else "is built without CUDA"
    return Finding(
        name="GPU",
        state="problem",
        detail=f"driver {driver} is here, but torch {built} and sees no GPU",
        remedy="see CUDA_VISIBLE_DEVICES, or install the torch for this driver: https://pytorch.org/get-started",
        required=wanted,
    )


def _driver() -> str | None:
    """The version of the NVIDIA driver; its kernel module says it."""
    try:
        words = _DRIVER.read_text(encoding="utf-8").split("\n")[0].split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def memory() -> Iterator[Finding]:
    """RAM, as far as a container's limit lets it be used."""
    virtual = psutil.virtual_memory()
    limit = _limit(_CGROUP / "memory.max")
    total = min(virtual.total, limit or virtual.total)
    free = min(virtual.available, total)
    yield _enough(
        "memory",
        f"{total / GIB:.1f} GiB, {free / GIB:.1f} free",
        free,
        (_NO_MEMORY, _LITTLE_MEMORY),
        "stop other programs, or use fewer --workers: each loads the weights",
    )


def cores() -> Iterator[Finding]:
    """CPU cores that this process may run on, and the share of them that a container leaves."""
    usable = len(os.sched_getaffinity(0))
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    share = (
        f", limited to {int(quota) / int(period):.3g}" if quota.isdigit() and period.strip().isdigit() else ""
    )
    yield Finding(name="CPU cores", state="ok", detail=f"{usable} of {os.cpu_count()}{share}")


def disk(where: Path) -> Iterator[Finding]:
    """Space where the run lies, or will lie."""
    there = next(path for path in (where.absolute(), *where.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    yield _enough(
        "disk",
        f"{free / GIB:.1f} GiB free at {there}",
        free,
        (_NO_DISK, _LITTLE_DISK),
        "free some space or put the run elsewhere; --dry-run of a command tells what it writes",
    )
    yield _locks(there)


def _locks(folder: Path) -> Finding:
    if not os.access(folder, os.W_OK):
        remedy = "make it writable, or give another run directory; it can be read as it is"
        return Finding(
            name="locks", state="problem", detail=f"{folder} is not writable", remedy=remedy, required=True
        )
    try:
        require_locks(folder)
    except UserError as error:
        detail, _, remedy = str(error).partition(": ")
        return Finding(name="locks", state="problem", detail=detail, remedy=remedy or detail, required=True)
    return Finding(name="locks", state="ok", detail=f"work at {folder}")


def shared_memory() -> Iterator[Finding]:
    """/dev/shm, where Ray keeps what its processes exchange."""
    if not _SHM.is_dir():
        remedy = "Ray falls back to the disk; mount one, or use --workers 0"
        yield Finding(name="shared memory", state="missing", detail=f"no {_SHM}", remedy=remedy)
        return
    free = shutil.disk_usage(_SHM).free
    remedy = "Ray falls back to the disk; a container takes --shm-size=1g"
    yield _enough("shared memory", f"{free / GIB:.2f} GiB free in {_SHM}", free, (0, _LITTLE_SHM), remedy)


def _enough(name: str, detail: str, free: float, bounds: tuple[float, float], remedy: str) -> Finding:
    broken, little = bounds
    if free >= little:
        return Finding(name=name, state="ok", detail=detail)
    return Finding(name=name, state="problem", detail=detail, remedy=remedy, required=free < broken)


def _limit(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


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
    """Each draws a point, PyTorch3D also on a GPU; what `auto` is, and which PyTorch3D is here."""
    import torch

    from rewards.errors import RewardError
    from rewards.rasterise.pytorch3d import REMEDY, find_build
    from rewards.rasterise.rasterisers import AUTO, BUILT_IN, RASTERISERS, choose_rasteriser

    build = find_build()
    chosen = choose_rasteriser("cuda" if needs.gpus > 0 else "cpu")
    yield Finding(name=f"rasteriser {AUTO}", state="ok", detail=f"{chosen.name} ({chosen.reason})")
    for name in RASTERISERS:
        title, required = f"rasteriser {name}", name == BUILT_IN or name in needs.rasterisers
        on_gpu = torch.cuda.is_available() and (name == BUILT_IN or bool(build and build.cuda))
        about = "" if name == BUILT_IN else f"; {build}, with torch {torch.__version__}"
        devices = ("cpu", "cuda") if on_gpu else ("cpu",)
        try:
            blank = [device for device in devices if not _draws(name, device)]
        except RewardError as error:
            detail = str(error).removeprefix(f"rasteriser {name!r}: ").removesuffix(f": {REMEDY}")
            state: State = "problem" if build else "missing"
            yield Finding(name=title, state=state, detail=detail, remedy=REMEDY, required=required)
            continue
        if not blank:
            yield Finding(name=title, state="ok", detail=f"draws on {' and '.join(devices)}{about}")
            continue
        remedy = "use --rasteriser torch" if name != BUILT_IN else "install gpa and torch anew"
        detail = f"draws nothing where a point lies on {' and '.join(blank)}{about}"
        yield Finding(name=title, state="problem", detail=detail, remedy=remedy, required=required)


def _draws(name: str, device: str) -> bool:
    """Whether a rasteriser draws a point. Raises RewardError where it cannot be used."""
    import torch

    from rewards.rasterise.rasterisers import find_rasteriser

    with torch.device(device):
        cloud = torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3)
        cameras = torch.tensor([[[4.0, 0, 2], [0, 4, 2], [0, 0, 1]]]), torch.eye(4)[None, :3]
    return bool(find_rasteriser(name)(*cloud, *cameras, 5, 5)[0].max() == 1)


def perceptual(needs: Needs) -> Iterator[Finding]:
    """The backbones of LPIPS, whose files must be fetched."""
    from rewards.errors import RewardError
    from rewards.measures.backbones import require_backbone

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
