"""A training that ends before its steps, or goes on beyond them, and says so."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from storage.adapters import NOTE_NAME, WEIGHTS_NAME, locate_adapter, read_adapter, sha256
from storage.errors import UserError
from tests.trainer.conftest import MemoryPairs, build_pairs
from tests.trainer.test_resume import logged
from trainer.config import TrainConfig
from trainer.saving.saved import Ending, TrainResult
from trainer.schedule import learning_rate
from trainer.train import train
from trainer.watching.validation import PairValidation

Make = Callable[..., TrainConfig]
NOT_THE_SAME = "this is not the same as having asked for them at first"


@pytest.fixture
def pairs() -> MemoryPairs:
    return build_pairs(3)


def crash_at(step: int) -> Callable[[int, dict[str, float]], None]:
    def progress(done: int, _: dict[str, float]) -> None:
        if done == step:
            raise RuntimeError("pulled the plug")

    return progress


def stopped(config: TrainConfig, pairs: MemoryPairs, step: int) -> None:
    with pytest.raises(RuntimeError, match="pulled"):
        train(config, crash_at(step), source=pairs)


def training_of(result: TrainResult) -> dict[str, Any]:
    return dict(json.loads((result.adapter_dir / NOTE_NAME).read_text())["training"])


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS_NAME).read_bytes()


def card_of(result: TrainResult) -> str:
    return " ".join(ModelCard.load(result.adapter_dir / "README.md").text.split())


def test_a_checkpoint_is_an_adapter_and_a_training_stands_for_its_newest(
    make_config: Make, pairs: MemoryPairs
) -> None:
    config = make_config(keep=3)
    stopped(config, pairs, 5)
    folder = config.out_dir / "checkpoints"
    assert locate_adapter(config.out_dir) == folder / "step-00000004"
    (folder / "step-00000004" / WEIGHTS_NAME).write_bytes(b"")
    assert locate_adapter(config.out_dir) == folder / "step-00000002"
    result = train(config, source=pairs)
    assert locate_adapter(config.out_dir) == result.adapter_dir
    newest = folder / "step-00000006"
    assert weights(newest) == weights(result.adapter_dir)
    assert sorted(path.name for path in newest.glob("*.safetensors")) == [
        "optimizer.safetensors",
        WEIGHTS_NAME,
        "rng.safetensors",
    ]
    read = read_adapter(newest)
    assert read.header is not None
    assert (read.header["r"], read.header["lora_alpha"]) == (4, 16)
    assert read.note is not None
    assert read.note["training"]["steps"] == 6
    # Steps beyond the adapter are newer than it.
    stopped(make_config(keep=3, steps=10), pairs, 9)
    assert locate_adapter(config.out_dir) == folder / "step-00000008"


def test_it_can_be_finished_where_it_is_and_still_go_on(make_config: Make, pairs: MemoryPairs) -> None:
    straight = train(make_config("straight"), source=pairs)
    config = make_config("early")
    with pytest.raises(UserError, match=r"nothing to finish in .*no whole checkpoint; train first"):
        train(config, source=pairs, finish=True)
    stopped(config, pairs, 5)
    ended = train(config, lambda *_: pytest.fail("a step was made"), source=pairs, finish=True)
    assert ended.steps == 4
    assert ended.ending == Ending(by="finish", after=4, of=6)
    assert weights(ended.adapter_dir) == weights(config.out_dir / "checkpoints" / "step-00000004")
    assert training_of(ended)["ended"] == {"by": "finish", "after": 4, "of": 6, "patience": None}
    assert "The training ended after 4 of 6 steps, by hand." in card_of(ended)
    assert ended.metrics["loss"] == pytest.approx(sum(one["loss"] for one in logged(config)[:4]) / 4)
    with pytest.raises(UserError, match="was started with lr"):
        train(make_config("early", lr=1.0), source=pairs, finish=True)
    whole = train(config, source=pairs)
    assert weights(whole.adapter_dir) == weights(straight.adapter_dir)
    assert "ended after" not in card_of(whole)


def looks(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float]) -> None:
    monkeypatch.setattr(PairValidation, "figures", lambda _self, step, *_: {"loss": losses[step]})


def test_patience_ends_it_with_the_adapter_of_the_best_look(
    make_config: Make, pairs: MemoryPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {1: 0.7, 2: 0.5, 3: 0.6, 4: 0.5, 5: 0.4, 6: 0.9, 7: 0.8}
    looks(monkeypatch, losses)
    options = {"validate_every": 1, "patience": 2, "checkpoint_every": 100, "keep": 1, "schedule": "constant"}

    def run(steps: int) -> TrainResult:
        return train(make_config(steps=steps, **options), source=pairs, held_out=build_pairs(4))

    with pytest.raises(RuntimeError, match="pulled"):
        train(make_config(steps=6, **options), crash_at(3), source=pairs, held_out=build_pairs(4))
    result = run(6)
    assert result.steps == 2
    assert result.ending == Ending(by="patience", after=4, of=6, patience=2)
    out = make_config().out_dir
    assert sorted(path.name[-1] for path in (out / "checkpoints").iterdir()) == ["2", "4"]
    assert weights(result.adapter_dir) == weights(out / "checkpoints" / "step-00000002")
    assert training_of(result)["steps"] == 2
    text = card_of(result)
    assert "ended after 4 of 6 steps: the held-out loss had not fallen in 2 looks." in text
    assert "This is the adapter of the best look, after 2 steps." in text
    assert result.metrics["val/loss"] == 0.5
    assert run(6) == result
    # With more steps it goes on, and looks are counted anew.
    more = run(12)
    assert more.ending == Ending(by="patience", after=7, of=12, patience=2)
    assert more.steps == 5
    assert locate_adapter(out) == more.adapter_dir


@pytest.mark.parametrize("lowest", [3, 4])
def test_with_patience_the_best_look_counts_at_the_end_of_the_steps_too(
    lowest: int, make_config: Make, pairs: MemoryPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(monkeypatch, {step: 0.1 if step == lowest else 0.9 - step / 100 for step in range(1, 5)})
    config = make_config(steps=4, validate_every=1, patience=3, checkpoint_every=100)
    result = train(config, source=pairs, held_out=build_pairs(4))
    assert result.ending == Ending(by="steps", after=4, of=4, patience=3)
    assert result.steps == lowest


def test_more_steps_of_a_cosine_are_not_the_same_and_that_is_kept(
    make_config: Make, pairs: MemoryPairs, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_config("grown", steps=4, warmup=1), source=pairs)
    grown = make_config("grown", steps=8, warmup=1)
    with caplog.at_level(logging.WARNING):
        stopped(grown, pairs, 7)
    assert f"from step 4 on the learning rate follows the schedule of 8 steps: {NOT_THE_SAME}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        result = train(grown, source=pairs)
    assert NOT_THE_SAME not in caplog.text, "it was said already, and nothing changed"
    rates = [line["lr"] for line in logged(grown)]
    assert rates[4:] == [learning_rate(grown, step) for step in range(4, 8)]
    expected = [{"from_step": 0, "steps": 4}, {"from_step": 4, "steps": 8}]
    assert training_of(result)["schedule"] == expected
    assert "followed the schedule of 4 steps, from step 4 on that of 8." in card_of(result)
    with pytest.raises(UserError, match=r"has done 8 steps, `steps` is now 6: .* or `finish`"):
        train(make_config("grown", steps=6, warmup=1), source=pairs)


def test_more_steps_are_the_same_while_every_rate_was(
    make_config: Make, pairs: MemoryPairs, caplog: pytest.LogCaptureFixture
) -> None:
    """In the warm-up a cosine of any length has the same rates."""
    options = {"warmup": 4, "checkpoint_every": 1}
    straight = train(make_config("straight", steps=8, **options), source=pairs)
    stopped(make_config("grown", steps=6, **options), pairs, 4)
    with caplog.at_level(logging.WARNING):
        result = train(make_config("grown", steps=8, **options), source=pairs)
    assert NOT_THE_SAME not in caplog.text
    assert weights(result.adapter_dir) == weights(straight.adapter_dir)
    assert training_of(result)["schedule"] == [{"from_step": 0, "steps": 8}]


def test_a_warm_up_that_was_cut_short_is_no_part_of_a_longer_training(
    make_config: Make, pairs: MemoryPairs, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"warmup": 4, "schedule": "constant"}
    train(make_config(steps=2, **options), source=pairs)
    with caplog.at_level(logging.WARNING):
        result = train(make_config(steps=6, **options), source=pairs)
    assert NOT_THE_SAME in caplog.text
    assert [entry["from_step"] for entry in training_of(result)["schedule"]] == [0, 2]
    assert [line["lr"] for line in logged(make_config())] == pytest.approx(
        [rate * 1e-3 for rate in (0.5, 1, 0.75, 1, 1, 1)]
    )


def as_first_format(checkpoint: Path, config: TrainConfig) -> None:
    """Write a checkpoint as it was before it was an adapter."""
    state = json.loads((checkpoint / "state.json").read_text())
    tensors = load_file(checkpoint / WEIGHTS_NAME)
    save_file(
        {name.removeprefix("transformer."): value for name, value in tensors.items()},
        checkpoint / "lora.safetensors",
    )
    for name in (WEIGHTS_NAME, NOTE_NAME):
        (checkpoint / name).unlink()
    del state["schedule"], state["config"]["batch_size * grad_accum * processes"]
    state["config"] |= {"batch_size": config.batch_size, "grad_accum": config.grad_accum, "processes": 1}
    state["config"] |= {"steps": config.steps}
    state["sha256"]["lora"] = sha256(checkpoint / "lora.safetensors")
    (checkpoint / "state.json").write_text(json.dumps(state | {"format": 1}))


@pytest.mark.parametrize("finish", [False, True])
def test_a_checkpoint_of_before_is_read_and_becomes_an_adapter(
    finish: bool, make_config: Make, pairs: MemoryPairs
) -> None:
    straight = train(make_config("straight", batch_size=4), source=pairs)
    config = make_config("old", batch_size=4)
    stopped(config, pairs, 5)
    checkpoint = config.out_dir / "checkpoints" / "step-00000004"
    as_first_format(checkpoint, config)
    shutil.rmtree(checkpoint.with_name("step-00000002"))
    # Its pairs a step are divided anew.
    result = train(make_config("old", batch_size=2, grad_accum=2), source=pairs, finish=finish)
    assert result.steps == (4 if finish else 6)
    assert read_adapter(result.adapter_dir).note is not None
    if not finish:
        found, expected = (load_file(one.adapter_dir / WEIGHTS_NAME) for one in (result, straight))
        for name, value in expected.items():
            assert (found[name] - value).abs().max() < 1e-4
