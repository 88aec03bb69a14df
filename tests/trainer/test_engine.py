"""Ways to compute the same step: cached references, sides apart, loading ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data import MicroBatch, MicroBatchSource, PairLoader, Prefetcher
from trainer.loop import Trainer
from trainer.processes import Interrupted, StopRequest
from trainer.reference import ReferenceCache
from trainer.step import PairForward
from trainer.train import train

CPU = torch.device("cpu")


def gradients(
    compute: PairForward, trainer: Trainer, inputs: MicroBatch
) -> tuple[dict[str, float], list[Tensor]]:
    found: dict[str, float] = {}

    def backward(loss: Tensor, metrics: dict[str, Tensor]) -> None:
        found.update(
            {"loss": float(loss.detach()), **{name: float(value) for name, value in metrics.items()}}
        )
        (loss / 3).backward()

    trainer.optimizer.zero_grad()
    compute.run(inputs, None, backward)
    return found, [p.grad.clone() for p in trainer.parameters.values() if p.grad is not None]


@pytest.mark.parametrize("objective", ["dpo", "ipo"])
def test_sides_apart_have_the_gradient_of_sides_together(
    objective: str, make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(4)
    trainer = Trainer(make_config(steps=3, lr=1e-2, objective=objective, winner_anchor=0.5), pairs)
    trainer.run(StopRequest())
    inputs = MicroBatchSource(trainer.config, trainer.loader, trainer.timesteps).load(17)
    together, of_together = gradients(trainer.update.compute, trainer, inputs)
    apart, of_apart = gradients(replace(trainer.update.compute, together=False), trainer, inputs)
    assert together == pytest.approx(apart, rel=1e-4, abs=1e-6)
    assert len(of_together) == len(of_apart) > 0
    scale = max(float(g.abs().max()) for g in of_together)
    assert scale > 0
    for one, other in zip(of_together, of_apart, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * scale)


def losses(
    config: TrainConfig, pairs: Any, monkeypatch: pytest.MonkeyPatch, *, without_cache: bool = False
) -> list[float]:
    trainer = Trainer(config, pairs)
    seen: list[float] = []
    if without_cache:
        # The draws are the fixed ones, their errors are computed anew every time.
        monkeypatch.setattr("trainer.reference.ReferenceCache.of", lambda *_: None)
    trainer.run(StopRequest(), lambda _, metrics: seen.append(metrics["loss"]))
    return seen


def test_cached_references_are_those_of_the_same_draws(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(3)
    options = {"steps": 8, "cache_reference": 2, "lr": 1e-2}
    cached = losses(make_config("cached", **options), pairs, monkeypatch)
    fresh = losses(make_config("fresh", **(options | {"cache_reference": 0})), pairs, monkeypatch)
    computed = losses(make_config("computed", **options), pairs, monkeypatch, without_cache=True)
    assert cached == pytest.approx(computed, rel=1e-6)
    assert cached != fresh


def test_fixed_draws_come_back_every_k_epochs(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config = make_config(batch_size=3, cache_reference=2)
    source = MicroBatchSource(config, PairLoader(make_pairs(3), CPU), (0, 999))
    epochs = [source.load(number) for number in range(4)]
    for one in epochs:
        assert one.fixed is not None
        assert sorted(pair for pair, _ in one.fixed) == [0, 1, 2]
    assert [{number for _, number in one.fixed or ()} for one in epochs] == [{0}, {1}, {0}, {1}]

    def noise(inputs: MicroBatch) -> dict[int, Tensor]:
        return {pair: inputs.noise_BX[i] for i, (pair, _) in enumerate(inputs.fixed or ())}

    first, second, third = (noise(one) for one in epochs[:3])
    assert all(torch.equal(first[pair], third[pair]) for pair in first)
    assert not any(torch.equal(first[pair], second[pair]) for pair in first)


def test_the_cache_survives_an_interruption_and_is_not_computed_again(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config, pairs = make_config(cache_reference=3, steps=2), make_pairs(4)
    trainer = Trainer(config, pairs)
    stop = StopRequest()
    with pytest.raises(Interrupted):
        trainer.run(
            stop, reference_progress=lambda done, _: setattr(stop, "name", "SIGINT") if done >= 4 else None
        )
    todo: list[int] = []
    train(config, source=pairs, reference_progress=lambda _, count: todo.append(count))
    assert todo[0] == 4 * 3 - 4
    again: list[int] = []
    train(replace(config, steps=2), source=pairs, reference_progress=lambda _, count: again.append(count))
    assert again == []


def test_a_damaged_or_foreign_cache_is_computed_anew_and_says_so(
    make_config: Callable[..., TrainConfig],
    make_pairs: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, pairs = make_config(cache_reference=1), make_pairs(2)
    loader = PairLoader(pairs, CPU)
    cache = ReferenceCache(config, loader, "key", 1, 0)
    assert cache.fill(
        lambda inputs: torch.ones(2 * len(inputs.timestep_index_B)), (0, 999), stopped=lambda: False
    )
    assert ReferenceCache(config, loader, "key", 1, 0).missing() == []
    assert len(ReferenceCache(config, loader, "other", 1, 0).missing()) == 2
    assert "another training" in caplog.text
    path = next((config.out_dir / "reference").iterdir())
    path.write_bytes(path.read_bytes()[:40])
    assert len(ReferenceCache(config, loader, "key", 1, 0).missing()) == 2
    assert "damaged" in caplog.text


def test_shares_of_processes_are_disjoint_and_complete(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config, loader = make_config(cache_reference=3), PairLoader(make_pairs(5), CPU)
    shares = [ReferenceCache(config, loader, "key", 2, process).missing() for process in (0, 1)]
    assert sorted(shares[0] + shares[1]) == [(pair, number) for pair in range(5) for number in range(3)]


def test_a_process_that_is_done_keeps_nothing_of_the_others(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    """Three places of two processes in batches of one: the second one has a round too many."""
    config, loader = make_config(cache_reference=1, batch_size=1), PairLoader(make_pairs(3), CPU)

    def errors(inputs: MicroBatch) -> Tensor:
        assert inputs.fixed is not None
        return torch.tensor([1.0 + inputs.fixed[0][0], 5.0])

    caches = [ReferenceCache(config, loader, "key", 2, process) for process in (0, 1)]
    for cache in caches:
        assert cache.fill(errors, (0, 999), stopped=lambda: False, rounds=lambda _: 2)
    summed = sum(cache.errors_PK2.nan_to_num(0.0) for cache in caches)
    assert isinstance(summed, Tensor)
    assert summed[:, 0].tolist() == [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]


def test_loading_ahead_keeps_order_and_raises_where_it_failed() -> None:
    loaded: list[int] = []

    def load(number: int) -> int:
        loaded.append(number)
        if number == 3:
            raise ValueError("pair 3 is damaged")
        return number * 10

    ahead = Prefetcher(load, end=5)
    assert [ahead.get(number) for number in range(3)] == [0, 10, 20]
    with pytest.raises(ValueError, match="pair 3 is damaged"):
        ahead.get(3)
    ahead.close()
    assert loaded[:4] == [0, 1, 2, 3]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("inputs")]


def test_supervised_training_lowers_the_winners_error_and_needs_no_loser(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(2)
    options = {"objective": "sft", "steps": 60, "lr": 1e-2, "rank": 8, "batch_size": 2}
    result = train(make_config("sft", **options), source=pairs)
    assert {"loser_error", "margin", "accuracy"}.isdisjoint(result.metrics)
    start = train(make_config("start", **(options | {"steps": 2})), source=pairs)
    assert result.metrics["winner_error"] < 0.9 * start.metrics["winner_error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "sft", "cache_reference": 2}, "cache_reference must be 0 with objective sft"),
        ({"objective": "sft", "winner_anchor": 1.0}, "winner_anchor must be 0 with objective sft"),
        ({"objective": "sft", "winner_weight": 1.0}, "winner_weight must be 0 with objective sft"),
        ({"forward": "both"}, "forward must be one of auto, together, apart"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, adamw8bit"),
    ],
)
def test_settings_that_make_no_sense(
    options: dict[str, Any], message: str, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    from storage.errors import UserError

    with pytest.raises(UserError, match=message):
        make_config(**options)
