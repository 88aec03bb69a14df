"""Held-out figures: what they are, and that looking changes nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.data import MicroBatch
from trainer.loop import Trainer
from trainer.objectives import PairErrors, preference_loss
from trainer.processes import StopRequest
from trainer.saving.metrics import read_log, recent_means
from trainer.train import train
from trainer.watching.validation import LEVELS, PairValidation

TIMING = {"seconds", "pairs_per_second"}
FIGURES = {"loss", "margin", "accuracy", "winner_advantage", "loser_advantage", "winner_error", "loser_error"}


def trained_lines(config: TrainConfig) -> list[dict[str, float]]:
    return [
        {name: value for name, value in line.items() if name not in TIMING and not name.startswith("val/")}
        for line in read_log(config.out_dir)
    ]


def held_out_lines(config: TrainConfig) -> list[dict[str, float]]:
    lines = (
        {name: value for name, value in line.items() if name == "step" or name.startswith("val/")}
        for line in read_log(config.out_dir)
    )
    return [line for line in lines if len(line) > 1]


def held_out_pairs(make_pairs: Callable[..., Any], count: int = 5) -> Any:
    pairs = make_pairs(12)
    pairs.rows = pairs.rows[-count:]
    return pairs


def wild(step: int, folder: Path, stopped: Callable[[], bool]) -> dict[str, float]:
    """A sampler that leaves everything different from how it found it."""
    torch.manual_seed(step)
    torch.randn(17)
    torch.set_num_threads(2)
    return {"motion_ratio": 1.0}


@pytest.mark.parametrize("objective", ["dpo", "ipo", "sft"])
def test_looking_changes_no_number(
    objective: str, make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs, options = make_pairs(4), {"objective": objective, "lr": 1e-2}
    train(make_config("blind", **options), source=pairs)
    looking = make_config("looking", validate_every=2, validate_pairs=3, sample_every=3, **options)
    train(looking, source=pairs, held_out=held_out_pairs(make_pairs), on_sample=wild)
    assert trained_lines(looking) == trained_lines(make_config("blind"))
    weights = "adapter/pytorch_lora_weights.safetensors"
    assert (looking.out_dir / weights).read_bytes() == (
        make_config("blind").out_dir / weights
    ).read_bytes(), "bit for bit"
    steps = {line["step"]: line.keys() for line in held_out_lines(looking)}
    assert sorted(steps) == [2, 3, 4, 6]
    assert {f"val/{name}" for name in FIGURES} <= steps[4]
    assert "val/motion_ratio" in steps[3]
    assert ("val/saturated" in steps[4]) == (objective != "sft")
    assert torch.get_num_threads() == 1
    assert not (looking.out_dir / "sampled-adapter").exists()


def by_hand(trainer: Trainer, pairs: Any, count: int) -> list[list[float]]:
    """(policy winner, policy loser, reference winner, reference loser) of every place, one at a time."""
    check = trainer.checks[0]
    assert isinstance(check, PairValidation)
    rows = []
    for level, share in enumerate(LEVELS):
        for pair in range(count):
            inputs = check._inputs([(pair, level)])
            assert inputs.timestep_index_B.tolist() == [round(share * 999)]
            assert torch.equal(inputs.batch.winner_BX[0], pairs.rows[pair].winner_latents)
            compute = trainer.update.compute
            rows.append([*compute.policy_errors(inputs).tolist(), *compute.reference_errors(inputs).tolist()])
    return rows


@pytest.mark.parametrize("objective", ["ipo", "sft"])
def test_the_figures_are_those_of_every_place_computed_alone(
    objective: str, make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    held_out = held_out_pairs(make_pairs)
    config = make_config(objective=objective, validate_every=3, validate_pairs=3, lr=1e-2, winner_anchor=0.0)
    trainer = Trainer(config, make_pairs(4), held_out)
    trainer.run(StopRequest())
    errors_4V = torch.tensor(by_hand(trainer, held_out, 3), dtype=torch.float64).t()
    pair_errors = PairErrors(
        policy_win_B=errors_4V[0],
        policy_lose_B=errors_4V[1],
        reference_win_B=errors_4V[2],
        reference_lose_B=errors_4V[3],
    )
    loss, metrics = preference_loss("ipo", pair_errors, config.beta)
    expected = {name: value.item() for name, value in metrics.items()} | {"loss": loss.item()}
    if objective == "sft":
        expected["loss"] = expected["winner_error"]
        del expected["saturated"]
    last = {name.removeprefix("val/"): value for name, value in held_out_lines(config)[-1].items()}
    assert last.pop("step") == 6
    assert last == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert last["margin"] != 0


def test_the_same_places_every_time_and_after_an_interruption(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs, held_out = make_pairs(4), held_out_pairs(make_pairs)
    # So small a rate that the policy stays: what differs then is what is looked at.
    options = {"validate_every": 1, "lr": 1e-12}
    train(make_config("still", **options), source=pairs, held_out=held_out)
    errors = [line["val/winner_error"] for line in held_out_lines(make_config("still"))]
    assert len(errors) == 6
    assert max(errors) - min(errors) < 1e-6

    options = {"validate_every": 2, "lr": 1e-2}
    train(make_config("straight", **options), source=pairs, held_out=held_out)

    def crash(done: int, _: dict[str, float]) -> None:
        if done == 5:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="pulled"):
        train(make_config("broken", **options), crash, source=pairs, held_out=held_out)
    train(make_config("broken", **options), source=pairs, held_out=held_out)
    assert held_out_lines(make_config("broken")) == held_out_lines(make_config("straight"))
    # How often to look may change on the way.
    more = make_config("broken", validate_every=1, lr=1e-2)
    train(more, source=pairs, held_out=held_out)


def test_it_learns_what_holds_for_pairs_it_never_saw(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    """Every winner here lies on the same side of its loser, so the preference carries over."""
    pairs = make_pairs(12, gap=0.0)
    push = torch.ones(pairs.latent_shape)
    for row in pairs.rows:
        row.winner_latents, row.loser_latents = row.winner_latents + push, row.loser_latents - push
    held_out = replace(pairs, rows=pairs.rows[8:])
    pairs.rows = pairs.rows[:8]
    options = {"steps": 30, "lr": 1e-2, "batch_size": 4, "validate_every": 30, "checkpoint_every": 100}
    train(make_config("right", **options), source=pairs, held_out=held_out)
    right = held_out_lines(make_config("right"))[-1]
    train(make_config("wrong", **options), source=pairs.swapped(), held_out=held_out)
    wrong = held_out_lines(make_config("wrong"))[-1]
    assert right["val/accuracy"] >= 0.95 > 0.05 >= wrong["val/accuracy"]
    assert right["val/margin"] > 0 > wrong["val/margin"]
    assert right["val/loss"] < 0.693 < wrong["val/loss"]


def test_two_processes_share_the_places(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    """What each would send adds up to what one computes, and both make the same number of calls."""
    held_out = held_out_pairs(make_pairs, 3)
    config = make_config(validate_every=1, validate_pairs=3, batch_size=2)
    trainer = Trainer(config, make_pairs(4), held_out)
    check = trainer.checks[0]
    assert isinstance(check, PairValidation)
    whole = check._errors(trainer.update.compute.policy_errors, lambda: False)
    assert whole is not None
    for processes in (2, 5, 20):
        parts, calls = [], []
        for process in range(processes):
            check.accelerator = _Process(processes, process)  # type: ignore[assignment]
            counted: list[MicroBatch] = []

            def errors(inputs: MicroBatch, counted: list[MicroBatch] = counted) -> torch.Tensor:
                counted.append(inputs)
                return trainer.update.compute.policy_errors(inputs)

            parts.append(check._errors(errors, lambda: False))
            calls.append(len(counted))
        assert len(set(calls)) == 1
        assert torch.allclose(sum(parts), whole, rtol=1e-6)  # type: ignore[arg-type]


class _Process:
    device = torch.device("cpu")

    def __init__(self, processes: int, process: int) -> None:
        self.num_processes, self.process_index = processes, process

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return tensor


def test_a_request_to_stop_ends_a_look(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    trainer = Trainer(make_config(validate_every=1), make_pairs(4), held_out_pairs(make_pairs))
    stop = StopRequest(name="SIGTERM")
    assert trainer.checks[0].figures(1, stop, lambda flag: flag) == {}
    assert trainer.checks[0].figures(1, StopRequest(), lambda flag: flag)["accuracy"] == 0.5


def test_figures_that_are_not_finite_are_left_out_and_said(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    held_out = held_out_pairs(make_pairs)
    held_out.rows[1].winner_latents = torch.full_like(held_out.rows[1].winner_latents, torch.inf)
    config = make_config(validate_every=6)
    with caplog.at_level(logging.WARNING):
        train(config, source=make_pairs(4), held_out=held_out)
    assert "the winner_error of the held-out pairs is nan" in caplog.text
    assert "val/loser_error" in held_out_lines(config)[-1]
    assert "val/winner_error" not in held_out_lines(config)[-1]


def test_refusals_before_the_first_step(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], tmp_path: Path
) -> None:
    pairs = make_pairs(3)
    with pytest.raises(UserError, match=r"validation: there are no pair shards .*gpa pair --split all"):
        train(make_config(validate_every=1), source=pairs)
    other = held_out_pairs(make_pairs)
    other.revision = "r2"
    with pytest.raises(UserError, match="sampled from revision r2"):
        train(make_config(validate_every=1), source=pairs, held_out=other)
    with pytest.raises(UserError, match=r"the held-out pairs have .*those to train on"):
        train(make_config(validate_every=1), source=pairs, held_out=make_pairs(2, (3, 4, 4, 4)))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    with pytest.raises(UserError, match=r"validate_split must be no split that is trained on \(val\)"):
        make_config(validate_every=1, split="val")
    with pytest.raises(
        UserError, match=r"validate_split must be no split that is trained on \(all of them\)"
    ):
        make_config(validate_every=1, split=None)
    with pytest.raises(UserError, match="validate_pairs must be a whole number >= 1"):
        make_config(validate_pairs=0)
    with pytest.raises(UserError, match="validate_split must be one of"):
        make_config(validate_split="dev")
    make_config(split=None)


def test_a_sampling_that_fails_is_said_and_costs_nothing(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(step: int, folder: Path, stopped: Callable[[], bool]) -> dict[str, float]:
        raise UserError("the sampler has no weights: fetch them")

    config = make_config(sample_every=6)
    with caplog.at_level(logging.WARNING):
        result = train(config, source=make_pairs(4), on_sample=refuse)
    assert "step 6: no videos were measured: the sampler has no weights" in caplog.text
    assert result.steps == 6
    assert held_out_lines(config) == []


def test_sampling_gets_the_adapter_as_it_is_and_falls_are_said(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[int, dict[str, Any], bool]] = []

    def measure(step: int, folder: Path, stopped: Callable[[], bool]) -> dict[str, float]:
        seen.append((step, json.loads((folder / "adapter.json").read_text())["training"], stopped()))
        return {"motion_ratio": 1.0 - step / 20, "sharpness_ratio": 0.91}

    config = make_config(sample_every=2)
    with caplog.at_level(logging.WARNING):
        train(config, source=make_pairs(4), on_sample=measure)
    assert [(step, about["steps"], stop) for step, about, stop in seen] == [
        (2, 2, False),
        (4, 4, False),
        (6, 6, False),
    ]
    assert [line["val/motion_ratio"] for line in held_out_lines(config)] == [0.9, 0.8, 0.7]
    warned = [record.getMessage() for record in caplog.records]
    assert len([text for text in warned if "motion of sampled videos" in text]) == 2
    assert "step 4: the motion of sampled videos is 80 % of the base model's" in warned[0]
    assert not any("sharpness" in text for text in warned)


def test_means_take_the_newest_of_what_is_held_out(tmp_path: Path) -> None:
    lines = [
        {"step": n, "loss": float(n)} | ({"val/loss": n / 10} if n % 2 == 0 else {}) for n in range(1, 8)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recent_means(tmp_path, window=2) == {"loss": 6.5, "val/loss": 0.6}


def test_tensorboard_keeps_the_names_of_held_out_figures(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_config(report_to=("tensorboard",), validate_every=3)
    train(config, source=make_pairs(4), held_out=held_out_pairs(make_pairs))
    events = EventAccumulator(str(config.out_dir / "tensorboard")).Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(scalars)
    assert [event.step for event in events.Scalars("val/loss")] == [3, 6]
    assert not any(name.startswith("train/val") for name in scalars)


def test_an_accelerator_waits_for_sampling(make_config: Callable[..., TrainConfig], make_pairs: Any) -> None:
    trainer = Trainer(make_config(sample_every=1), make_pairs(2), None, wild)
    assert isinstance(trainer.accelerator, Accelerator)
    assert trainer.accelerator.init_handler is not None
    assert trainer.accelerator.init_handler.timeout.total_seconds() > 3600
