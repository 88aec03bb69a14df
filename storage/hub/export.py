"""The pairs of a run as a folder for the Hugging Face Hub: shards by split, and a card with their terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from storage.atomic import write_bytes
from storage.errors import UserError
from storage.hub.provenance import Provenance, pair_provenance
from storage.pairs.writer import INDEX, tensor_writer
from storage.run import Run
from storage.tables.ids import SPLITS
from storage.tables.schemas import PAIR_TENSORS, TABLES, open_shard
from storage.tables.shards import read_shard, shard_files, write_shard
from storage.upkeep.compact import first_of_each, row_groups

_DATA = "data"
# What the Hub calls our splits.
_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
_MEANINGS = {
    "pair_id": "names the two candidates and what judged them",
    "prompt_id": "content hash of the prompt",
    "scene_id": "scene of the prompt; no scene is in two splits",
    "split": "train, val or test, by hash of scene_id",
    "text": "the prompt",
    "winner_id": "candidate with the higher value, or the one that a person put first",
    "loser_id": "the other candidate",
    "winner_value": "reward of the winner, higher is better",
    "loser_value": "reward of the loser",
    "gap": "winner_value - loser_value, above 0 unless a person swapped the two",
    "reward": "name of the reward",
    "reward_version": "version of the reward and its settings",
    "winner_motion": "camera motion of the winner, in units of scene depth",
    "loser_motion": "camera motion of the loser",
    "model": "model that sampled both",
    "revision": "its revision",
    "num_frames": "frames of the videos",
    "human": "keep or swap where a person decided, null elsewhere",
    "winner_latents": "final latents of the winner",
    "loser_latents": "final latents of the loser",
    "prompt_embeds": "the encoded prompt",
    "image_latents": "latents of the first frame, null for text-to-video",
    "image_embeds": "features of the first frame, null where the model takes none",
}
_READ_TENSOR = """
def tensor(blob):  # float16, bfloat16 or float32
    data = torch.frombuffer(bytearray(blob["data"]), dtype=getattr(torch, blob["dtype"]))
    return data.reshape(blob["shape"])
"""


def _public_name(model: str | None) -> str | None:
    """A model's name; of a folder on this machine only its last part."""
    if model is None or not (model.startswith(("/", ".", "~")) or PureWindowsPath(model).drive):
        return model
    return PureWindowsPath(model).name


def card(source: Provenance, *, tensors: bool) -> str:
    """README.md of a dataset of the Hub, its metadata in front."""
    metadata = yaml.safe_dump(_metadata(source), sort_keys=False, allow_unicode=True)
    sections = (_title(source), _labels(source), _loading(source, tensors), _columns(tensors))
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(source: Provenance) -> dict[str, Any]:
    size = next((name for limit, name in _SIZES if source.pairs < limit), "n>10M")
    files = [
        {"split": _HUB_SPLITS[split], "path": f"{_DATA}/{split}-*.parquet"}
        for split in SPLITS
        if split in source.splits
    ]
    return {
        **_terms(source),
        "pretty_name": "Geometric preference pairs",
        "tags": ["preference", "dpo", "video-generation", "geometric-preference-alignment"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": files}],
    }


def _terms(source: Provenance) -> dict[str, str]:
    """One licence of all labels by name; anything else is for the reader to find in the card."""
    licences = {one.license for one in source.geometry}
    if source.scores_known and len(licences) == 1:
        (licence,) = licences
        if licence:
            return {"license": licence.lower()}
    return {"license": "other", "license_name": "see-labels-and-licence"}


def _title(source: Provenance) -> str:
    splits = ", ".join(f"{count:,} {name}" for name, count in source.splits.items())
    rewards = ", ".join(f"`{name}` version `{version}`" for name, version in source.rewards)
    return (
        "# Geometric preference pairs\n\n"
        f"{source.pairs:,} pairs ({splits}) of {source.prompts:,} prompts in {source.scenes:,} scenes: two "
        "videos that one model sampled for one prompt, ranked by a geometric reward. "
        f"{_by_hand(source)} Reward: {rewards}. Gap between winner and loser: least {source.gap_min:.4g}, "
        f"median {source.gap_median:.4g}, largest {source.gap_max:.4g}."
    )


def _by_hand(source: Provenance) -> str:
    if not source.human:
        return "No human labelled anything."
    return f"A person looked at {source.human:,} of them and left or swapped winner and loser (column human)."


def _labels(source: Provenance) -> str:
    head = "## Labels and licence\n\n"
    if not source.scores_known:
        return head + (
            "The scores behind the pairs were not at hand when this was written, so the geometry model is "
            "not named here. If there was one, the labels inherit its licence."
        )
    if not source.geometry:
        return (
            head + "The reward uses no geometry model; the terms of the model that sampled the videos hold."
        )
    lines = ["| geometry model | revision | licence |", "| --- | --- | --- |"]
    lines += [
        f"| {_public_name(one.model)} | {one.revision or 'unknown'} | {one.license or 'unknown'} |"
        for one in source.geometry
    ]
    return (
        head
        + "\n".join(lines)
        + (
            "\n\nThe labels inherit the licence of the geometry model that made them. The latents are works "
            "of the model that sampled them: read its terms too before use."
        )
    )


def _loading(source: Provenance, tensors: bool) -> str:
    split = _HUB_SPLITS[next(iter(source.splits))]
    code = f'from datasets import load_dataset\n\npairs = load_dataset("FOLDER_OR_NAME", split="{split}")'
    if tensors:
        code = f'import torch\n{code}\n{_READ_TENSOR}\nwinner = tensor(pairs[0]["winner_latents"])'
    return f"## How to load\n\n```python\n{code}\n```"


def _columns(tensors: bool) -> str:
    lines = ["| column | type | meaning |", "| --- | --- | --- |"]
    for field in TABLES["pairs"]:
        if tensors or field.name not in PAIR_TENSORS:
            kind = "struct(data, shape, dtype)" if field.name in PAIR_TENSORS else str(field.type)
            lines.append(f"| {field.name} | {kind} | {_MEANINGS[field.name]} |")
    return "## Columns\n\n" + "\n".join(lines)


_CARD_NAME = "README.md"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export holds: pairs by split, files, bytes, and whether the pairs carry their tensors."""

    directory: Path
    splits: dict[str, int]
    files: int
    bytes: int
    tensors: bool


def export_pairs(run: Run, destination: Path, pairs: Path | None = None) -> Exported:
    """Write the pairs of a directory (default: the run's), a shard for each split of a shard, and a card.

    Nothing in the folder names a place on this machine: a model that is a local folder goes by its last name.
    The card comes last, so that a folder without one is not whole. Raises UserError when there are no pairs,
    for a destination that holds anything, and for a shard that cannot be read.
    """
    directory = pairs or run.shard_dir("pairs")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} is there and not an empty folder: give a new one")
    source = pair_provenance(run, directory, None)
    if source is None:
        raise UserError(f"there are no pairs in {directory}: run gpa pair first")
    written: list[Path] = []
    tensors = True
    for path, ids in first_of_each({path: _ids(path) for path in shard_files(directory)}).items():
        carries = _has_tensors(path)
        tensors = tensors and carries
        for split in pc.unique(ids["split"]).to_pylist():
            kept = ids.filter(pc.equal(ids["split"], split))["pair_id"]
            write = _write_tensor_part if carries else _write_index_part
            written.append(write(path, destination / _DATA / f"{split}-{path.name}", kept))
    write_bytes(destination / _CARD_NAME, card(source, tensors=tensors).encode())
    size = sum(path.stat().st_size for path in written)
    return Exported(
        directory=destination, splits=source.splits, files=len(written), bytes=size, tensors=tensors
    )


def _write_index_part(path: Path, destination: Path, kept: pa.ChunkedArray) -> Path:
    rows = read_shard(path, "pairs", INDEX)
    rows = _without_places(rows.filter(pc.is_in(rows["pair_id"], value_set=kept)))
    return write_shard(destination.parent, "pairs", rows).rename(destination)


def _write_tensor_part(path: Path, destination: Path, kept: pa.ChunkedArray) -> Path:
    with tensor_writer(destination) as writer:
        for rows in row_groups(path, kept):
            writer.write_table(_without_places(rows).cast(writer.schema))
    return destination


def _without_places(rows: pa.Table) -> pa.Table:
    models = pa.array([_public_name(name) for name in rows["model"].to_pylist()], pa.string())
    return rows.set_column(rows.column_names.index("model"), "model", models)


def _has_tensors(path: Path) -> bool:
    with open_shard(path, "pairs") as shard:
        return set(PAIR_TENSORS[:3]) <= set(shard.schema_arrow.names)


def _ids(path: Path) -> pa.Table:
    with open_shard(path, "pairs") as shard:
        return shard.read(columns=["pair_id", "split"])
