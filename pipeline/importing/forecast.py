"""What an import would cost, from the sizes of the files and the imports that the run has seen."""

from __future__ import annotations

import json

import pyarrow.compute as pc

from pipeline.forecast.forecast import Footprint, Forecast, Rate
from pipeline.forecast.sizes import model_sizes
from pipeline.importing.plan import ImportPlan
from pipeline.importing.stage import Encoding
from storage.run import Run

_UNMEASURED = "no video was imported like this yet"


def forecast_import(
    run: Run | None, plan: ImportPlan, encoding: Encoding | None, *, link: bool, workers: int, gpus: float
) -> Forecast:
    """Videos to take in; what is refused counts nowhere."""
    each = 0.0 if link or not plan.missing else plan.bytes / plan.missing
    source = "no copies of the files: they are linked" if link else "the files themselves"
    sizes = None if encoding is None else model_sizes(encoding.model, encoding.settings)
    if sizes is not None:
        each, source = each + sizes.latents, f"{source}; latents from sizes"
    return Forecast(
        unit="videos",
        wanted=plan.wanted,
        present=plan.wanted - plan.missing,
        rate=Rate.measured(_seconds(run, encoding), "videos imported like this", _UNMEASURED),
        footprint=Footprint(each=each, source=source),
        workers=workers,
        gpus_per_worker=gpus,
    )


def _seconds(run: Run | None, encoding: Encoding | None) -> list[float]:
    """Of the imported candidates that were encoded with this model, or with none."""
    if run is None:
        return []
    table = run.rows("candidates", ["latent_uri", "model", "sampler", "seconds"])
    if encoding is None:
        table = table.filter(pc.is_null(table["latent_uri"]))
    else:
        table = table.filter(pc.equal(table["model"], encoding.model.name))
    return [row["seconds"] for row in table.to_pylist() if "imported" in json.loads(row["sampler"])]
