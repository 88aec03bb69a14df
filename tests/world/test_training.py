"""What the world's trainings share: Muon, schedule, averages, and resuming without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.world.referee import RefereeConfig
from pipeline.world.training import common, geometry, referee
from pipeline.world.training.common import (
    Curve,
    Muon,
    WeightAverage,
    build_optimizers,
    orthogonalise,
    read_curve,
    schedule,
)
from rewards.geometry.world.network import WorldGeometryConfig


def _geometry(folder: Path) -> Path:
    training = geometry.GeometryTraining(steps=4, batch_size=2, clips=4, frames=3, save_every=2)
    return geometry.train_geometry(folder, training, WorldGeometryConfig(width=32, heads=2, layers=1))


def _referee(folder: Path) -> Path:
    training = referee.RefereeTraining(steps=4, batch_size=2, clips=4, save_every=2)
    return referee.train_referee(folder, training, RefereeConfig(width=8))


@pytest.mark.parametrize("train", [_geometry, _referee])
def test_interrupted_training_ends_with_the_same_weights(
    train: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    real_save = common.save_state

    def save_and_die(*args: Any, **counters: float) -> None:
        real_save(*args, **counters)
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts")
    monkeypatch.setattr(common, "save_state", real_save)
    resumed = train(tmp_path / "parts")
    expected, found = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_non_finite_loss_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "geometry_loss", lambda *_: (torch.tensor(float("nan")), {}))
    with pytest.raises(FloatingPointError, match=r"geometry training: the loss is nan at step 0"):
        _geometry(tmp_path)


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 40, 24)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_lowers_a_quadratic_and_refuses_closures() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(32, 32))
    target, optimizer = torch.randn(32, 32), Muon([weight], lr=0.02)
    losses = []
    for _ in range(60):
        loss = (weight - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    with pytest.raises(ValueError, match=r"closures are not supported"):
        optimizer.step(lambda: 0.0)


def test_matrices_go_to_muon_and_vectors_to_adam() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 9))
    muon, adam = build_optimizers(model, 1e-3, 1e-3)
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(32, 32)]
    assert len(adam.param_groups[0]["params"]) == 3


def test_schedule_warms_up_and_decays_to_one_percent() -> None:
    assert schedule(0, 1000) == pytest.approx(1 / 50)
    assert schedule(50, 1000) == pytest.approx(1.0)
    assert schedule(1000, 1000) == pytest.approx(0.01)


def test_average_lies_between_old_and_new_weights() -> None:
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, decay=0.9)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(model, step=10_000)
    assert torch.allclose(average.tensors["weight"], before + 0.1, atol=1e-6)


def test_curve_drops_what_a_resumed_run_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    curve = Curve(path)
    for step in (20, 40, 60):
        curve.add(step, loss=1 / step)
    Curve(path, step=40).add(60, loss=7.0)
    assert [(entry["step"], entry["loss"]) for entry in read_curve(path)] == [
        (20, 0.05),
        (40, 0.025),
        (60, 7.0),
    ]
