"""Train an adapter, go on with a training, or finish it early."""

from __future__ import annotations

from collections.abc import Callable

from storage.errors import UserError
from storage.hub.provenance import Provenance
from trainer.config import TrainConfig
from trainer.data import PairSource, open_pairs, pairs_fingerprint, require_same_model
from trainer.loop import Progress, ReferenceProgress, Trainer
from trainer.processes import stop_requests
from trainer.saving.ending import write_adapter
from trainer.saving.saved import Ending, TrainResult, fixed_of, newest_whole, processes, require_same_config
from trainer.setup import cpu_threads
from trainer.watching.validation import OnSample, validation_pairs


def train(
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    source: PairSource | None = None,
    held_out: PairSource | None = None,
    reference_progress: ReferenceProgress | None = None,
    on_sample: OnSample | None = None,
    provenance: Provenance | None = None,
    begins: Callable[[int, int], None] | None = None,
    finish: bool = False,
) -> TrainResult:
    """Train an adapter, or continue the training that `config.out_dir` holds, or return it when finished.

    With `finish` no step is made: the newest checkpoint becomes the adapter.

    `begins` is called before the first step with the numbers of pairs and of steps that are there, `progress`
    after each step with the number of steps done and its metrics, `reference_progress` with done and all
    while errors of the reference are computed ahead, `on_sample` as validation.py says.
    `source` and `held_out` replace the shards of `config.pairs_dir`. `provenance` is for the model card.

    Raises UserError for pairs, model, or a resumed configuration that do not fit, NonFiniteLossError before
    the optimiser step it would spoil, and Interrupted after SIGINT or SIGTERM, when a checkpoint has been
    written.
    """
    with stop_requests() as stop, cpu_threads(config.threads):
        pairs = open_pairs(config.pairs_dir, config.split, config.max_pairs) if source is None else source
        require_same_model(pairs, config.model, config.revision)
        if finish:
            return _finish(config, pairs, provenance)
        trainer = Trainer(config, pairs, validation_pairs(config, held_out), on_sample)
        trainer.resume()
        if begins is not None and trainer.unfinished and trainer.accelerator.is_main_process:
            begins(len(pairs), trainer.step)
        trainer.run(stop, progress, reference_progress)
        return trainer.finish(provenance)


def _finish(config: TrainConfig, pairs: PairSource, provenance: Provenance | None) -> TrainResult:
    """Make the newest checkpoint the adapter. Raises UserError where there is none of this configuration."""
    found = newest_whole(config.out_dir / "checkpoints")
    if found is None:
        raise UserError(
            f"there is nothing to finish in {config.out_dir}: it has no whole checkpoint; train first, "
            "without `finish`"
        )
    checkpoint, state = found
    require_same_config(
        state["config"], fixed_of(config, pairs_fingerprint(pairs), processes()), config.out_dir
    )
    if state["format"] == 1:
        # Its weights lie there by themselves.
        trainer = Trainer(config, pairs)
        trainer.resume()
        trainer.checkpoint()
    step, steps = state["step"], max(state["step"], config.steps)
    ending = Ending(by="steps" if step == steps else "finish", after=step, of=steps, patience=config.patience)
    return write_adapter(config, checkpoint, ending, pairs, provenance)
