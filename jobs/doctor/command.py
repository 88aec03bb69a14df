"""gpa doctor: is everything here that a run needs, before it is paid for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.settings.command import Command, a_preset
from jobs.settings.options import json_option
from jobs.settings.presets import DEFAULT, Preset, find_preset, preset_names, preset_of

if TYPE_CHECKING:
    from jobs.doctor.finding import Finding, Needs

_COLOURS = {"ok": "green", "missing": "yellow", "problem": "red"}
# Option of a preset, its value, and the optional package that it needs.
_PACKAGES = (
    ("optimizer", "adamw8bit", "bitsandbytes"),
    ("geometry", "depth-anything", "depth-anything-3"),
    ("matcher", "lightglue-disk", "kornia"),
    ("matcher", "lightglue-aliked", "kornia"),
)


@click.command("doctor", cls=Command)
@click.argument("run", type=click.Path(path_type=Path), metavar="[RUN]", required=False)
@a_preset(
    f"Only what this preset needs, all of it required: {', '.join(preset_names())}. "
    f"[default: tell of all, require what the preset of RUN needs, else {DEFAULT}]",
)
@json_option
@click.pass_context
def command(ctx: click.Context, /, run: Path | None, preset: Preset | None, as_json: bool) -> None:
    """Check this machine, its software and the weights that presets name.

    Every line says ok, missing or problem, with what to do about it. Needs no network, starts nothing and
    leaves nothing. Looks at the disk of RUN, or at that of the current folder. Exits with 1 when something
    that is required (marked !) is not ok.
    """
    from jobs.doctor.checkup import examine

    chosen = preset or preset_of(None, run)
    needs = preset_needs([chosen])
    named = needs if preset else preset_needs([find_preset(name) for name in preset_names()])
    findings: list[Finding] = []
    for finding in examine(run or Path(), needs, named, run):
        findings.append(finding)
        if not as_json:
            _show(finding)
    broken = [finding.name for finding in findings if finding.breaks]
    if as_json:
        values = {"ok": not broken, "findings": [finding.as_dict() for finding in findings]}
        click.echo(json.dumps(values, sort_keys=True))
    elif broken:
        click.echo(f"not ready for {chosen}: {', '.join(broken)}")
    else:
        click.echo(f"ready for {chosen}")
    if broken:
        ctx.exit(1)


def preset_needs(chosen: Sequence[Preset]) -> Needs:
    """What some presets use together."""
    from jobs.doctor.finding import Needs

    presets = [one.sections for one in chosen]
    score = [preset.get("score", {}) for preset in presets]
    packages = [
        package
        for preset in presets
        for section in preset.values()
        for option, value, package in _PACKAGES
        if section.get(option) == value
    ]
    return Needs(
        models=_different(preset.get("sample", {}).get("model") for preset in presets),
        geometries=_different(
            (one["geometry"], one.get("geometry_model")) for one in score if "geometry" in one
        ),
        perceptuals=_different(one.get("perceptual") for one in score),
        rasterisers=_different(one.get("rasteriser") for one in score),
        packages=_different(packages),
        gpus=max((_gpus(section) for preset in presets for section in preset.values()), default=0),
        ray=any(section.get("workers", 0) for preset in presets for section in preset.values()),
    )


def _gpus(section: dict[str, Any]) -> float:
    each, workers = section.get("gpus_per_worker", 0), section.get("workers", 0)
    return float(each) * max(1, int(workers))


def _different(values: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _show(finding: Finding) -> None:
    state = click.style(f"{finding.state:8}", fg=_COLOURS[finding.state])
    mark = "!" if finding.breaks else " "
    click.echo(f"{state}{mark} {finding.name:24} {finding.detail}")
    if finding.remedy is not None:
        click.echo(f"{'':10} {'':24} -> {finding.remedy}")
