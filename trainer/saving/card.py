"""The model card of an adapter: what it is, how to load it, what it was trained on and under which terms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from storage.atomic import write_bytes
from storage.hub.provenance import Provenance
from trainer.config import TrainConfig
from trainer.saving.saved import CARD_NAME

# Terms that ask for no more than attribution.
_PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"})
# Folders of the machine that trained say nothing to a reader, the base has a line of its own.
_UNSAID = frozenset(
    {"from_adapter", "model_dir", "pairs_dir", "out_dir", "model", "revision", "report_to", "keep"}
)
_AGAINST = {
    "start": "; the preference was measured against that adapter",
    "base": "; the preference was measured against the base model",
}
_METHODS = {
    "dpo": "Diffusion-DPO (Wallace et al. 2023)",
    "ipo": "identity preference optimisation (Azar et al. 2023) on denoising errors",
    "sft": "supervised training on the winners alone",
}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card tells; `pairs` are those trained on, `provenance` is None where nobody gathered it.

    `training` is what the adapter's note says of it.
    """

    config: TrainConfig
    targets: tuple[str, ...]
    image_to_video: bool
    steps: int
    processes: int
    pairs: int
    metrics: dict[str, float]
    provenance: Provenance | None = None
    training: dict[str, Any] = field(default_factory=dict)


def write_card(directory: Path, facts: CardFacts) -> Path:
    """Write README.md into an adapter folder: a model card of the Hub, with its metadata in front."""
    path = directory / CARD_NAME
    sections = (_title(facts), _loading(facts), _data(facts), _labels(facts), _training(facts), _last(facts))
    text = "\n\n".join(sections)
    write_bytes(path, f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}\n".encode())
    return path


def base_terms(model_dir: Path) -> dict[str, str]:
    """`license`, `license_name`, `license_link` as the base model's own card has them; may be empty."""
    try:
        data = ModelCard.load(model_dir / CARD_NAME, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, YAMLError):
        return {}
    found = {name: data.get(name) for name in ("license", "license_name", "license_link")}
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _metadata(facts: CardFacts) -> ModelCardData:
    config = facts.config
    # The Hub would take a plain name for a model of its own.
    is_hub_id = config.model.count("/") == 1
    fields: dict[str, Any] = dict(_terms(facts))
    if is_hub_id:
        fields |= {"base_model": config.model, "base_model_relation": "adapter"}
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-video" if facts.image_to_video else "text-to-video",
        tags=["lora", "diffusers", "geometric-preference-alignment", config.objective],
        **fields,
    )


def _terms(facts: CardFacts) -> dict[str, str]:
    """The base's licence, unless the labels come under terms that ask for more."""
    terms = base_terms(facts.config.model_dir)
    sources = () if facts.provenance is None else facts.provenance.geometry
    if not all((source.license or "").lower() in _PERMISSIVE for source in sources):
        return {"license": "other", "license_name": "base-and-geometry-model"}
    return terms if "license" in terms else {"license": "other", "license_name": "that-of-the-base-model"}


def _title(facts: CardFacts) -> str:
    config = facts.config
    return (
        f"# LoRA adapter for {config.model}\n\n"
        f"Rank {config.rank}, alpha {config.alpha}, for `{config.model}` at revision `{config.revision}`, "
        f"trained for {facts.steps} steps by {_METHODS[config.objective]}{_pairs(facts)}{_course(facts)}"
    )


def _pairs(facts: CardFacts) -> str:
    """What it was trained on and who ranked it, as far as that was gathered."""
    source = facts.provenance
    if source is None:
        return " on pairs of videos."
    return f" on pairs: {source.videos.told()}. {source.judged()}"


def _course(facts: CardFacts) -> str:
    """From where it came, how the learning rate went on, and why it ended, where that is worth a word."""
    said = (_start(facts), _schedule(facts), _end(facts))
    return "".join(f"\n\n{one}" for one in said if one)


def _start(facts: CardFacts) -> str:
    start = facts.training.get("start")
    if start is None:
        return ""
    had = "an unknown number of" if start["steps"] is None else start["steps"]
    against = "" if facts.config.objective == "sft" else _AGAINST[start["reference"]]
    digest = start["sha256"][:12]
    return f"It continues the adapter `{start['name']}` (SHA-256 `{digest}`), which had {had} steps{against}."


def _schedule(facts: CardFacts) -> str:
    first, *later = facts.training.get("schedule") or [{"steps": facts.steps}]
    if not later:
        return ""
    changes = ", ".join(f"from step {one['from_step']} on that of {one['steps']}" for one in later)
    return f"The learning rate followed the schedule of {first['steps']} steps, {changes}."


def _end(facts: CardFacts) -> str:
    ended = facts.training.get("ended")
    if ended is None or (ended["by"] == "steps" and ended["patience"] is None):
        return ""
    why = {
        "steps": "",
        "finish": ", by hand",
        "patience": f": the held-out loss had not fallen in {ended['patience']} looks",
    }[ended["by"]]
    best = (
        ""
        if ended["patience"] is None or ended["by"] == "finish"
        else (f" This is the adapter of the best look, after {facts.steps} steps.")
    )
    return f"The training ended after {ended['after']} of {ended['of']} steps{why}.{best}"


def _loading(facts: CardFacts) -> str:
    config = facts.config
    dtype = {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[config.precision]
    if config.model.count("/") == 1:
        base = f"{json.dumps(config.model)}, revision={json.dumps(config.revision)}"
        note = ""
    else:
        base = '"FOLDER_OF_THE_BASE"'
        note = f"\n\nThe base is a local folder that the training knew as `{config.model}`."
    return (
        "## How to load\n\n```python\nimport torch\nfrom diffusers import DiffusionPipeline\n\n"
        f"pipe = DiffusionPipeline.from_pretrained({base}, torch_dtype={dtype})\n"
        'pipe.load_lora_weights("FOLDER_OF_THIS_FILE")\n```\n\n'
        "Rank and alpha lie in the header of the weights; nothing else is to be set. Text, frames, steps and "
        f"guidance as the base model takes them.{note}"
    )


def _data(facts: CardFacts) -> str:
    source = facts.provenance
    if source is None:
        return f"## Data\n\n{facts.pairs} pairs; nothing more was recorded of them."
    of_splits = ", ".join(f"{count} {name}" for name, count in source.splits.items())
    rewards = ", ".join(f"`{name}` version `{version}`" for name, version in source.rewards)
    return (
        f"## Data\n\n{facts.pairs} pairs of {source.prompts} prompts in {source.scenes} scenes, split "
        f"`{facts.config.split or 'all'}` (the directory holds {of_splits}). "
        f"Reward: {rewards}. Gap between winner and loser: least {source.gap_min:.4g}, median "
        f"{source.gap_median:.4g}, largest {source.gap_max:.4g}."
        + (f" A person kept or swapped {source.human} of them." if source.human else "")
    )


def _labels(facts: CardFacts) -> str:
    source = facts.provenance
    if source is None or not source.scores_known:
        text = (
            "The scores behind the pairs were not at hand when this was written, so the geometry model is "
            "not named here. If there was one, the labels inherit its licence."
        )
    elif not source.geometry:
        text = "The reward uses no geometry model."
    else:
        rows = ((one.model, one.revision or "unknown", one.license or "unknown") for one in source.geometry)
        text = (
            f"{_table(('geometry model', 'revision', 'licence'), rows)}\n\n"
            "The labels inherit the licence of the geometry model that made them. Whether an adapter trained "
            "on such labels does too is for you to judge; read those terms, and the base model's, before use."
        )
    return "\n\n".join(("## Labels and licence", text, *([source.videos.terms()] if source else [])))


def _training(facts: CardFacts) -> str:
    fields = {name: value for name, value in facts.config.to_json().items() if name not in _UNSAID}
    fields |= {"targets": ", ".join(facts.targets), "processes": facts.processes}
    rows = ((name, value) for name, value in sorted(fields.items()))
    return f"## Training\n\n{_table(('option', 'value'), rows)}"


def _last(facts: CardFacts) -> str:
    if not facts.metrics:
        return "## Last metrics\n\nNone were kept."
    rows = ((name, f"{value:.6g}") for name, value in sorted(facts.metrics.items()))
    return (
        f"## Last metrics\n\n{_table(('metric', 'value'), rows)}\n\n"
        "Means over the last steps of training; `val/` is the last look at held-out data. Advantages and "
        "margins are differences of denoising errors to the base model. They say that the preference was "
        "learned, not that the videos are better: compare videos of base and adapter, their motion included."
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
