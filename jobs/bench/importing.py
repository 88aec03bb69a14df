"""gpa bench import: clips a second, as they are and written again, against decoding alone."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.figure_tables import FigureTable, print_tables
from jobs.settings.options import below_option, json_option, option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FPS = 24


@click.command("import")
@option("--clips", type=click.IntRange(1), default=200, metavar="N", help="Clips of a kind.")
@option("--seconds", type=click.FloatRange(0.1), default=2.0, metavar="X", help="Length of a clip.")
@option("--height", type=click.IntRange(16), default=480, metavar="N", help="Its height in pixels.")
@option("--width", type=click.IntRange(16), default=854, metavar="N", help="Its width in pixels.")
@below_option
@json_option
def command(
    clips: int, seconds: float, height: int, width: int, directory: Path | None, as_json: bool
) -> None:
    """Clips that gpa import takes in a second, without a model, by one process.

    One clip under many seeds: as it is (its file is copied), and turned by a quarter (it is decoded, turned
    and written again). Beside it what the obvious loop does: decode every file to RGB and copy it. All within
    one run, so that ratios hold on a busy machine.
    """
    frames = _texture(round(seconds * _FPS), height, width)
    with tempfile.TemporaryDirectory(prefix="gpa-bench-", dir=directory) as name:
        plain, turned = Path(name) / "plain.mp4", Path(name) / "turned.mp4"
        _write(plain, frames, 0)
        _write(turned, frames, 90)
        ways: dict[str, Callable[[], None]] = {
            "decode and copy (a loop)": lambda: _loop(plain, Path(name) / "copies", clips),
            "gpa import, as it is": lambda: _import(plain, Path(name) / "a", clips),
            "gpa import, turned": lambda: _import(turned, Path(name) / "b", clips),
        }
        rates = {way: clips / _seconds(work) for way, work in ways.items()}
    loop = rates["decode and copy (a loop)"]
    table = FigureTable(
        subject="import",
        title="Clips taken in by one process",
        counts={"clips": clips, "frames a clip": len(frames), "height": height, "width": width},
        columns=("way", "clips/s", "of the loop"),
        rows=tuple((way, rate, rate / loop) for way, rate in rates.items()),
    )
    if as_json:
        click.echo(json.dumps([table.as_dict()], indent=2))
    else:
        print_tables([table])


def _texture(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames uint8 [T,H,W,3]: a soft random ground that moves a pixel a frame."""
    import cv2
    import numpy as np

    ground = np.random.default_rng(0).integers(0, 256, (height + count, width + count, 3), dtype=np.uint8)
    soft = cv2.normalize(cv2.GaussianBlur(ground, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    return np.stack([soft[t : t + height, t : t + width] for t in range(count)])


def _write(path: Path, frames_THW3: NDArray[np.uint8], turn: int) -> None:
    """As phones write: H.264 with halved chroma at a usual rate, turned by a note in the container."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(_FPS))
        stream.height, stream.width = frames_THW3.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        for frame in frames_THW3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.copy(), format="rgb24")))
        container.mux(stream.encode())


def _loop(path: Path, target: Path, clips: int) -> None:
    import av

    target.mkdir()
    for number in range(clips):
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")
        shutil.copyfile(path, target / f"{number}.mp4")


def _import(path: Path, folder: Path, clips: int) -> None:
    from pipeline.importing.import_videos import run_import
    from pipeline.importing.settings import ImportSettings
    from pipeline.sampling.settings import SamplerSettings
    from storage.run import Run

    folder.mkdir()
    manifest = folder / "list.jsonl"
    rows = [{"prompt": "a clip", "seed": seed, "path": str(path)} for seed in range(clips)]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    # Without a model nothing of it is used.
    sampler = SamplerSettings(
        steps=1, guidance=1.0, height=8, width=8, num_frames=1, fps=_FPS, max_sequence_length=1
    )
    settings = ImportSettings(source=manifest, sampler=sampler, allow_outside=True, workers=0)
    summary = run_import(Run.create_or_open(folder / "run"), settings)
    assert summary.done == clips, summary.reason


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
