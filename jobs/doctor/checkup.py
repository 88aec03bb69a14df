"""All checks in the order in which they are shown.

Each is imported when its turn comes: a package that is missing is a finding, not the end of the examination.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from jobs.doctor.finding import Finding, Needs, guarded


def examine(where: Path, needs: Needs, named: Needs, run: Path | None = None) -> Iterator[Finding]:
    """Look at everything. `where` is the disk that counts, `needs` what is planned.

    `named` lists the models whose presence is told. A `run` that exists is opened.
    """
    gpu, ray = needs.gpus > 0, needs.ray
    # What is looked at, by which function of which module, with what, and whether it is required.
    checks: list[tuple[str, str, tuple[Any, ...], bool]] = [
        ("python", "software.python", (), True),
        ("packages", "software.packages", (), True),
        ("optional packages", "software.optional", (needs,), False),
        ("extensions", "software.extensions", (), False),
        ("GPU", "machine.gpus", (needs,), gpu),
        ("memory", "machine.memory", (), True),
        ("CPU cores", "machine.cores", (), False),
        ("disk", "machine.disk", (where,), True),
        ("shared memory", "machine.shared_memory", (), False),
        ("H.264", "machine.video", (), True),
        ("rasterisers", "machine.rasterisers", (needs,), True),
        ("Ray", "machine.ray", (needs,), ray),
        ("LPIPS", "machine.perceptual", (needs,), bool(needs.perceptuals)),
        ("geometry models", "weights.geometry_models", (named.geometries, needs), bool(needs.geometries)),
        ("video models", "weights.video_models", (named.models, needs), bool(needs.models)),
        ("judges", "weights.judges", (), False),
    ]
    if run is not None and run.exists():
        checks.append(("run", "checkup.opened_run", (run,), True))
    for name, place, given, required in checks:
        yield from guarded(name, partial(_call, place, given), required=required)


def opened_run(path: Path) -> Iterator[Finding]:
    """The run can be read, and who wrote there."""
    from storage.errors import UserError
    from storage.run import Run

    try:
        header = Run.open(path).header()
    except UserError as error:
        detail, _, remedy = str(error).partition(": ")
        yield Finding(name="run", state="problem", detail=detail, remedy=remedy or detail, required=True)
        return
    commands = ", ".join(header["commands"]) or "no command"
    detail = f"{path}, schema {header['schema_version']}, {commands} wrote there"
    yield Finding(name="run", state="ok", detail=detail)


def _call(place: str, given: tuple[Any, ...]) -> Iterable[Finding]:
    module, _, function = place.partition(".")
    found: Iterable[Finding] = getattr(import_module(f"jobs.doctor.{module}"), function)(*given)
    return found
