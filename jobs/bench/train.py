"""gpa bench train: what a training step costs on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from jobs.figure_tables import print_tables
from jobs.settings.options import json_option, option
from jobs.settings.presets import load_preset, preset_names

if TYPE_CHECKING:
    from jobs.bench.training.report import VariantFigures
    from jobs.bench.training.variants import Variant, Workload

_COLUMNS = ("step", "a pass", "s", "pairs/s", "faster", "range", "MiB", "memory", "% of matmul")


@click.command("train")
@option("--preset", default="world", metavar="NAME", help="Whose model and recipe.")
@click.option(
    "--pairs", type=click.IntRange(1), metavar="N", help="Pairs a step. [default: 16; 1 if published]"
)
@click.option(
    "--micro-batch", type=click.IntRange(1), metavar="N", help="Pairs a pass. [default: a quarter of them]"
)
@option("--rounds", type=click.IntRange(1), default=5, metavar="N", help="Rounds, after one to warm up.")
@click.option("--device", metavar="NAME", help="cpu or cuda. [default: cuda where there is one]")
@option("--threads", type=click.IntRange(1), default=2, metavar="N", help="CPU threads of torch.")
@click.option(
    "--compile", "compiled", is_flag=True, help="Also the cached one with torch.compile, which takes minutes."
)
@json_option
def command(
    preset: str,
    pairs: int | None,
    micro_batch: int | None,
    rounds: int,
    device: str | None,
    threads: int,
    compiled: bool,
    as_json: bool,
) -> None:
    """A DPO step as the trainer takes it, against the obvious way.

    The obvious way keeps a second, frozen copy of the model and takes four forward passes, all pairs at once.
    Steps are taken in turn, each variant in a process of its own. A preset whose model is not on this machine
    is measured on its published architecture at random weights.
    """
    import torch

    from jobs.bench.score import pick_device
    from jobs.bench.training.report import figures, matmul_ceiling, measure
    from jobs.progress import ConsoleProgress
    from storage.errors import UserError

    where = pick_device(device)
    workload = _workload(preset, pairs, where)
    variants = _variants(workload, micro_batch, compiled=compiled)
    progress = ConsoleProgress("steps")
    progress.start("bench train", len(variants) * (rounds + 1), 0)
    try:
        measured = measure(
            workload, variants, rounds=rounds, threads=threads, progress=lambda: progress.advance(1, 0)
        )
    except RuntimeError as error:
        raise UserError(str(error)) from error
    finally:
        progress.stop()
    ceiling = matmul_ceiling(workload.precision, where, threads)
    rows = figures(workload, variants, measured, ceiling)
    name = torch.cuda.get_device_name(where) if where.startswith("cuda") else "CPU"
    about = {"preset": preset, "device": name, "threads": threads, "torch": torch.__version__}
    about |= {"precision": workload.precision, "matmul_tflops": round(ceiling / 1e12, 3)}
    if as_json:
        click.echo(
            json.dumps({**about, "pairs": workload.pairs, "rows": [asdict(row) for row in rows]}, indent=2)
        )
    else:
        click.echo(", ".join(f"{key} {value}" for key, value in about.items()))
        _print(rows, workload, rounds)


def _workload(preset: str, pairs: int | None, device: str) -> Workload:
    """The preset's model where it is on this machine, else its published architecture. Raises UserError."""
    from jobs.bench.training.architectures import ARCHITECTURES, architecture
    from jobs.bench.training.variants import Workload, shapes_of
    from pipeline.models import WORLD, resolve_model
    from storage.errors import UserError
    from trainer.families import load_family
    from trainer.setup import DTYPES

    if preset not in {*preset_names(), *ARCHITECTURES}:
        raise UserError(f"preset {preset!r} does not exist; choose one of: {', '.join(preset_names())}")
    sections = load_preset(preset)
    sample, train = sections["sample"], sections["train-dpo"]
    published = preset in ARCHITECTURES
    size = (sample["num_frames"], sample["height"], sample["width"])
    if published:
        folder, shapes = None, architecture(preset).shapes(*size)
    else:
        folder = resolve_model(train["model"] or WORLD).path
        family = load_family(folder, DTYPES[train["precision"]], weights=False)
        shapes = shapes_of(family, sample["num_frames"])
    return Workload(
        model_dir=folder,
        architecture=preset if published else None,
        shapes=shapes,
        pairs=pairs or (1 if published else 16),
        rank=train["rank"],
        precision=train["precision"],
        device=device,
        gradient_checkpointing=published,
    )


def _variants(workload: Workload, micro_batch: int | None, *, compiled: bool) -> list[Variant]:
    from jobs.bench.training.variants import CACHED, FRESH, OBVIOUS, Variant
    from storage.errors import UserError

    micro = micro_batch or max(1, workload.pairs // 4)
    if workload.pairs % micro:
        raise UserError(f"--micro-batch {micro} must divide --pairs {workload.pairs}: change one of them")
    variants = [Variant(name=OBVIOUS, kind=OBVIOUS, micro=workload.pairs)]
    if micro != workload.pairs:
        # So that nobody takes what smaller passes save for what the trainer saves.
        variants.append(Variant(name=f"{OBVIOUS}, smaller passes", kind=OBVIOUS, micro=micro))
    variants += [
        Variant(name=FRESH, kind=FRESH, micro=micro),
        Variant(name=CACHED, kind=CACHED, micro=micro),
    ]
    if compiled:
        variants.append(Variant(name=f"{CACHED}, compiled", kind=CACHED, micro=micro, compiled=True))
    return variants


def _print(rows: list[VariantFigures], workload: Workload, rounds: int) -> None:
    from jobs.figure_tables import FigureTable

    cells = tuple(
        (
            row.name,
            row.micro,
            row.seconds,
            row.pairs_per_second,
            row.faster,
            f"{row.faster_low:.2f}-{row.faster_high:.2f}",
            row.peak_bytes / 2**20,
            row.memory,
            100 * row.share,
        )
        for row in rows
    )
    counts = {"pairs a step": workload.pairs, "rounds": rounds}
    table = FigureTable(subject="train", title="Training steps", counts=counts, columns=_COLUMNS, rows=cells)
    print_tables([table])
