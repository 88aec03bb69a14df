"""The card of exported pairs: what they are, who judged them, under which terms, and how to load them."""

from __future__ import annotations

from typing import Any

import yaml

from storage.hub.columns import described
from storage.hub.origins import IMPORTED, public_model
from storage.hub.provenance import Provenance
from storage.tables.ids import SPLITS

DATA, VIDEOS = "data", "videos"
# What the Hub calls our splits.
_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
_READ_TENSOR = """
def tensor(blob):  # float16, bfloat16 or float32
    data = torch.frombuffer(bytearray(blob["data"]), dtype=getattr(torch, blob["dtype"]))
    return data.reshape(blob["shape"])
"""


def card(source: Provenance, *, tensors: bool, videos: bool) -> str:
    """README.md of a dataset of the Hub, its metadata in front."""
    metadata = yaml.safe_dump(_metadata(source, videos), sort_keys=False, allow_unicode=True)
    sections = (
        _title(source),
        _videos(source, videos),
        _labels(source),
        _loading(source, tensors, videos),
        _columns(tensors, videos),
    )
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(source: Provenance, videos: bool) -> dict[str, Any]:
    size = next((name for limit, name in _SIZES if source.pairs < limit), "n>10M")
    files = [
        {
            "split": _HUB_SPLITS[split],
            "path": f"{VIDEOS}/{split}/*" if videos else f"{DATA}/{split}-*.parquet",
        }
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
    if source.scores_known and len(licences) == 1 and not source.videos.some(IMPORTED):
        (licence,) = licences
        if licence:
            return {"license": licence.lower()}
    return {"license": "other", "license_name": "see-labels-and-licence"}


def _title(source: Provenance) -> str:
    splits = ", ".join(f"{count:,} {name}" for name, count in source.splits.items())
    return (
        "# Geometric preference pairs\n\n"
        f"{source.pairs:,} pairs ({splits}) of {source.prompts:,} prompts in {source.scenes:,} scenes: "
        f"{source.videos.told()}, ranked by a reward. {source.judged()} Gap between winner and loser: least "
        f"{source.gap_min:.4g}, median {source.gap_median:.4g}, largest {source.gap_max:.4g}."
    )


def _videos(source: Provenance, videos: bool) -> str:
    said = [source.videos.terms()]
    if source.videos.captions:
        counts = ", ".join(f"{name} ({count:,})" for name, count in source.videos.captions.items())
        said.append(f"What says the prompts of imported videos, by number of videos: {counts}.")
    if videos:
        said.append(
            f"The videos are in `{VIDEOS}`: `load_dataset` gives them as columns `winner` and `loser`, the "
            f"shards in `{DATA}` name them in `winner_video` and `loser_video`."
        )
    else:
        said.append(
            "The videos are not in here: columns `winner_video` and `loser_video` name those of the run."
        )
    return "## Videos\n\n" + " ".join(one for one in said if one)


def _labels(source: Provenance) -> str:
    head = "## Labels and licence\n\n"
    if not source.scores_known:
        return head + (
            "The scores behind the pairs were not at hand when this was written, so the geometry model is "
            "not named here. If there was one, the labels inherit its licence."
        )
    if not source.geometry:
        return head + "The reward uses no geometry model. The terms of the videos are those above."
    lines = ["| geometry model | revision | licence |", "| --- | --- | --- |"]
    lines += [
        f"| {public_model(one.model)} | {one.revision or 'unknown'} | {one.license or 'unknown'} |"
        for one in source.geometry
    ]
    return (
        head + "\n".join(lines) + ("\n\nThe labels inherit the licence of the geometry model that made them.")
    )


def _loading(source: Provenance, tensors: bool, videos: bool) -> str:
    split = _HUB_SPLITS[next(iter(source.splits))]
    code = f'from datasets import load_dataset\n\npairs = load_dataset("FOLDER_OR_NAME", split="{split}")'
    if videos:
        code += '\nwinner, loser = pairs[0]["winner"], pairs[0]["loser"]  # videos, by torchcodec'
    if videos and tensors:
        shards = f'"parquet", data_files={{"{split}": "FOLDER/{DATA}/{next(iter(source.splits))}-*.parquet"}}'
        code += f'\n\npairs = load_dataset({shards}, split="{split}")  # with the tensors'
    if tensors:
        code = f'import torch\n{code}\n{_READ_TENSOR}\nwinner = tensor(pairs[0]["winner_latents"])'
    return f"## How to load\n\n```python\n{code}\n```"


def _columns(tensors: bool, videos: bool) -> str:
    lines = ["| column | type | meaning |", "| --- | --- | --- |"]
    root = "relative to this file" if videos else "relative to the run"
    lines += [f"| {' | '.join(one)} |" for one in described(tensors, root)]
    return "## Columns\n\n" + "\n".join(lines)
