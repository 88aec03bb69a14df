"""The end of a training: whether it comes early, and the checkpoint that becomes its adapter."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from storage.adapters import NOTE_NAME, WEIGHTS_NAME
from storage.atomic import write_bytes
from storage.hub.provenance import Provenance
from storage.pairs.dataset import PairDataset
from storage.trained_on import write_trained_on
from trainer.config import TrainConfig
from trainer.data import PairLoader, PairSource
from trainer.saving.card import CardFacts, write_card
from trainer.saving.checkpoint import write_json
from trainer.saving.metrics import HELD_OUT, read_log, recent_means
from trainer.saving.saved import Ending, TrainResult, checkpoint_of, is_first, processes, read_state

_logger = logging.getLogger(__name__)

_LOSS = f"{HELD_OUT}loss"


class Patience:
    """The held-out losses of a training so far, and whether they have stopped falling."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        """Of a training that goes on after `step` steps; the looks before are in its log."""
        self._looks = config.patience
        self._since = _ended_by_patience(config)
        self._losses: dict[int, float] = {}
        for line in read_log(config.out_dir) if config.patience else []:
            if line["step"] <= step:
                self.look(line["step"], line)

    def look(self, step: int, metrics: dict[str, float]) -> bool:
        """Note the held-out loss, if the figures of a step have one; whether it is the lowest so far."""
        if self._looks is None or _LOSS not in metrics:
            return False
        self._losses[step] = metrics[_LOSS]
        return self.best == step

    @property
    def best(self) -> int | None:
        """The steps after which the loss was lowest; None when there is no patience or no look yet."""
        return min(self._losses, key=lambda step: (self._losses[step], step), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether as many looks as were asked for have found nothing lower."""
        if self._looks is None or self.best is None:
            return False
        since = max(self.best, self._since)
        return sum(step > since for step in self._losses) >= self._looks


def _ended_by_patience(config: TrainConfig) -> int:
    """The steps after which a training of fewer steps was ended: looks count anew from there."""
    try:
        note = json.loads((config.out_dir / "adapter" / NOTE_NAME).read_text(encoding="utf-8"))
        ending = Ending.read(note)
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return ending.after if ending.by == "patience" and ending.of < config.steps else 0


def chosen_checkpoint(config: TrainConfig, best: int | None, last: int) -> Path:
    """The checkpoint that becomes the adapter: that of the best look where there was one and it is whole."""
    folder = config.out_dir / "checkpoints"
    if best is not None and best != last:
        try:
            read_state(checkpoint_of(folder, best))
            return checkpoint_of(folder, best)
        except (OSError, ValueError, KeyError, TypeError):
            _logger.warning(
                "the checkpoint of the best look, after step %d, is gone: the last is taken", best
            )
    return checkpoint_of(folder, last)


def write_adapter(
    config: TrainConfig, checkpoint: Path, ending: Ending, pairs: PairSource, provenance: Provenance | None
) -> TrainResult:
    """Make a checkpoint the adapter of its training, with a note of its end and a model card.

    Under a launcher the first process writes; the others say the same.
    """
    adapter_dir = config.out_dir / "adapter"
    note: dict[str, Any] = json.loads((checkpoint / NOTE_NAME).read_text(encoding="utf-8"))
    training = note["training"] | {"ended": vars(ending)}
    steps = training["steps"]
    metrics = recent_means(config.out_dir, steps)
    if is_first():
        facts = CardFacts(
            config=config,
            targets=tuple(note["targets"]),
            image_to_video=PairLoader(pairs, torch.device("cpu")).shapes.image is not None,
            steps=steps,
            processes=processes(),
            pairs=len(pairs),
            metrics=metrics,
            provenance=provenance,
            training=training,
        )
        adapter_dir.mkdir(parents=True, exist_ok=True)
        write_bytes(adapter_dir / WEIGHTS_NAME, (checkpoint / WEIGHTS_NAME).read_bytes())
        write_json(adapter_dir / NOTE_NAME, note | {"training": training})
        if isinstance(pairs, PairDataset):
            write_trained_on(
                adapter_dir,
                pairs.directory,
                config.split,
                config.max_pairs,
                started_from=config.from_adapter,
            )
        # Last: an adapter with a card is a finished one.
        write_card(adapter_dir, facts)
    return TrainResult(adapter_dir=adapter_dir, steps=steps, metrics=metrics, ending=ending)
