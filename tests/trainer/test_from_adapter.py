"""A training that continues an adapter: from where, measured against what, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage.adapters import METADATA_KEY, NOTE_NAME, WEIGHTS_NAME, locate_adapter
from storage.errors import UserError
from tests.trainer.conftest import MemoryPairs, build_pairs, build_transformer, save_model
from tests.trainer.tiny_training import float64
from trainer.config import TrainConfig
from trainer.data import MicroBatch, MicroBatchSource
from trainer.loop import Trainer
from trainer.lora import load_lora_state, lora_state
from trainer.setup import estimate
from trainer.train import train

Make = Callable[..., TrainConfig]


@pytest.fixture
def pairs() -> MemoryPairs:
    return build_pairs(3)


@pytest.fixture
def first(make_config: Make, pairs: MemoryPairs) -> Path:
    """The folder of a finished training of four steps."""
    config = make_config("first", steps=4, lr=1e-2)
    train(config, source=pairs)
    return config.out_dir


def a_batch(trainer: Trainer) -> MicroBatch:
    return MicroBatchSource(trainer.config, trainer.loader, trainer.timesteps).load(5)


def gradients(trainer: Trainer, inputs: MicroBatch) -> dict[str, Tensor]:
    trainer.optimizer.zero_grad()
    trainer.update.compute.run(inputs, None, lambda loss, _: loss.backward())
    return {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("forward", ["together", "apart"])
def test_it_starts_at_the_adapter_and_at_a_margin_of_nothing(
    forward: str, first: Path, make_config: Make, pairs: MemoryPairs
) -> None:
    trainer = Trainer(make_config(from_adapter=first, forward=forward), pairs)
    start = load_file(first / "adapter" / WEIGHTS_NAME)
    assert {f"transformer.{name}": value.tolist() for name, value in trainer_state(trainer).items()} == {
        name: value.tolist() for name, value in start.items()
    }
    found = step_of(trainer)
    assert found["margin"] == 0.0
    assert found["accuracy"] == 0.5
    assert found["loss"] == math.log(2)


def floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def trainer_state(trainer: Trainer) -> dict[str, Tensor]:
    return lora_state(trainer.family.transformer)


def step_of(trainer: Trainer) -> dict[str, float]:
    found: dict[str, float] = {}

    def backward(loss: Tensor, metrics: dict[str, Tensor]) -> None:
        found.update(floats(metrics | {"loss": loss.detach()}))
        loss.backward()

    trainer.update.compute.run(a_batch(trainer), None, backward)
    return found


def merged(model_dir: Path, adapter: Path, folder: Path, scale: float) -> Path:
    """The base with what the adapter adds, by a matrix product."""
    transformer = build_transformer().double()
    weights = load_file(adapter / WEIGHTS_NAME)
    with torch.no_grad():
        for name, module in transformer.named_modules():
            down = weights.get(f"transformer.{name}.lora_A.weight")
            if down is not None:
                up = weights[f"transformer.{name}.lora_B.weight"]
                module.weight += scale * (up.double() @ down.double())
    return save_model(folder, transformer)


def test_its_gradient_is_that_of_a_base_with_the_adapter_merged_in(
    first: Path, make_config: Make, model_dir: Path, tmp_path: Path, pairs: MemoryPairs
) -> None:
    """Where A B stands merged in W, A and nothing give the gradient of B, nothing and B that of A."""
    config = make_config(from_adapter=first, rank=4, alpha=16)
    with float64():
        continued = Trainer(config, pairs)
        # Away from the start, so that policy and reference differ.
        state = {
            name: value + 0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
            for name, value in trainer_state(continued).items()
        }
        load_lora_state(continued.family.transformer, state)
        found = gradients(continued, a_batch(continued))
        assert sum(float(one.abs().sum()) for one in found.values()) > 0
        moved = tmp_path / "moved"
        moved.mkdir()
        save_file({f"transformer.{name}": value for name, value in state.items()}, moved / WEIGHTS_NAME)
        policy_dir = merged(model_dir, moved, tmp_path / "policy", 4.0)
        reference_dir = merged(model_dir, first / "adapter", tmp_path / "reference", 4.0)
        plain = replace(config, from_adapter=None)
        reference = Trainer(replace(plain, model_dir=reference_dir, out_dir=tmp_path / "r"), pairs)
        reference_N = reference.update.compute.reference_errors(a_batch(reference))
        for kept, zeroed in (("lora_A", "lora_B"), ("lora_B", "lora_A")):
            policy = Trainer(replace(plain, model_dir=policy_dir, out_dir=tmp_path / "p"), pairs)
            half = {name: value * (kept in name) for name, value in state.items()}
            load_lora_state(policy.family.transformer, half)
            policy.update.compute.run(a_batch(policy), reference_N, lambda loss, _: loss.backward())
            for name, parameter in policy.parameters.items():
                if zeroed in name:
                    assert parameter.grad is not None
                    torch.testing.assert_close(parameter.grad, found[name], rtol=1e-9, atol=1e-12)


def test_against_the_base_the_adapter_counts_as_learned(
    first: Path, make_config: Make, pairs: MemoryPairs
) -> None:
    against_base = Trainer(make_config("base", from_adapter=first, reference="base"), pairs)
    plain = Trainer(make_config("plain"), pairs)
    inputs = a_batch(plain)
    expected = plain.update.compute.reference_errors(inputs)
    assert torch.equal(against_base.update.compute.reference_errors(inputs), expected)
    assert step_of(against_base)["margin"] != 0.0
    # Nothing is kept beside the trained adapter that nobody needs.
    names = [name for name, _ in against_base.family.transformer.named_parameters()]
    assert not [name for name in names if ".reference." in name]


@pytest.mark.parametrize("options", [{}, {"cache_reference": 2}, {"objective": "sft"}, {"reference": "base"}])
def test_it_resumes_exports_and_says_where_it_comes_from(
    options: dict[str, Any], first: Path, make_config: Make, pairs: MemoryPairs, tmp_path: Path
) -> None:
    options = {"from_adapter": first, "schedule": "constant", **options}
    straight = train(make_config("straight", **options), source=pairs)
    frozen = (first / "adapter" / WEIGHTS_NAME).read_bytes()
    train(make_config("parts", steps=3, **options), source=pairs)
    moved = shutil.copytree(first / "adapter", tmp_path / "moved")
    parts = train(make_config("parts", **(options | {"from_adapter": moved})), source=pairs)
    assert (parts.adapter_dir / WEIGHTS_NAME).read_bytes() == (
        straight.adapter_dir / WEIGHTS_NAME
    ).read_bytes()
    assert (first / "adapter" / WEIGHTS_NAME).read_bytes() == frozen
    trained = load_file(straight.adapter_dir / WEIGHTS_NAME)
    start = load_file(first / "adapter" / WEIGHTS_NAME)
    assert trained.keys() == start.keys()
    assert not any(torch.equal(trained[name], start[name]) for name in start)
    about = json.loads((straight.adapter_dir / NOTE_NAME).read_text())["training"]
    note = json.loads((first / "adapter" / NOTE_NAME).read_text())
    assert (about["steps"], about["total_steps"]) == (6, 10)
    reference = options.get("reference", "start")
    expected = {"name": "first", "sha256": note["sha256"], "steps": 4, "reference": reference}
    assert about["start"] == expected
    text = " ".join(ModelCard.load(straight.adapter_dir / "README.md").text.split())
    assert f"continues the adapter `first` (SHA-256 `{note['sha256'][:12]}`), which had 4 steps" in text
    assert ("measured against the base model" in text) == (reference == "base")
    # A third one counts the steps of both.
    again = make_config("again", from_adapter=straight.adapter_dir, steps=2)
    about = json.loads((train(again, source=pairs).adapter_dir / NOTE_NAME).read_text())["training"]
    assert about["total_steps"] == 12


def test_another_start_is_refused_on_resume(first: Path, make_config: Make, pairs: MemoryPairs) -> None:
    other = make_config("other", steps=4, seed=5)
    train(other, source=pairs)
    train(make_config(from_adapter=first), source=pairs)
    for now in (other.out_dir, None):
        with pytest.raises(UserError, match="was started with from_adapter"):
            train(make_config(from_adapter=now), source=pairs)
    with pytest.raises(UserError, match="was started with reference 'start', now it is 'base'"):
        train(make_config(from_adapter=first, reference="base"), source=pairs)
    train(make_config("plain"), source=pairs)
    with pytest.raises(UserError, match="was started with from_adapter None"):
        train(make_config("plain", from_adapter=first), source=pairs)


def test_cached_errors_of_another_start_are_not_used(
    first: Path, make_config: Make, pairs: MemoryPairs
) -> None:
    options = {"cache_reference": 1, "steps": 2}
    config = make_config("cached", from_adapter=first, **options)
    train(config, source=pairs)
    other = make_config("other", **options)
    other.out_dir.mkdir()
    shutil.copytree(config.out_dir / "reference", other.out_dir / "reference")
    todo: list[int] = []
    train(other, source=pairs, reference_progress=lambda _, count: todo.append(count))
    assert todo[0] == 3


def test_a_frozen_copy_counts_in_memory_and_not_in_what_is_trained(
    first: Path, make_config: Make, pairs: MemoryPairs
) -> None:
    plain = estimate(make_config(), pairs)
    against = {
        kind: estimate(make_config(from_adapter=first, reference=kind), pairs) for kind in ("start", "base")
    }
    assert against["start"].weights_bytes == plain.weights_bytes + 4 * plain.trainable
    assert against["base"].weights_bytes == plain.weights_bytes
    assert {one.trainable for one in against.values()} == {plain.trainable}
    assert {one.parameters for one in against.values()} == {plain.parameters}


def note_with(folder: Path, **changes: Any) -> None:
    note = json.loads((folder / NOTE_NAME).read_text())
    (folder / NOTE_NAME).write_text(json.dumps(note | changes))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"base_model": "other"},
            {},
            r"adapter\.json: base_model is 'other', this training has 'tiny': train",
        ),
        ({"base_revision": "r2"}, {}, r"adapter\.json: base_revision is 'r2', this training has 'r1'"),
        ({"family": "wan"}, {}, r"adapter\.json: family is 'wan', this training has 'cogvideox'"),
        ({}, {"rank": 8}, r"adapter\.json: rank is 4, this training has 8: give `rank` 4"),
        ({}, {"alpha": 8}, r"adapter\.json: alpha is 16, this training has 8: give `alpha` 16"),
        ({"targets": ["to_q"]}, {}, r"adapter\.json: targets is \['to_q'\], this training has \["),
        ({"sha256": "0"}, {}, r"is not the file that adapter\.json was written for"),
    ],
)
def test_what_does_not_fit_is_said_before_weights_load(
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
    first: Path,
    make_config: Make,
    pairs: MemoryPairs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note_with(first / "adapter", **changes)
    monkeypatch.setattr("trainer.loop.load_adapted", lambda *_: pytest.fail("weights are loaded"))
    with pytest.raises(UserError, match=message):
        train(make_config(from_adapter=first / "adapter", **options), source=pairs)


def rewrite(path: Path, header: dict[str, Any] | None, **tensors: Tensor) -> None:
    metadata = {} if header is None else {METADATA_KEY: json.dumps(header)}
    save_file(load_file(path) | tensors, path, metadata | {"format": "pt"})


HEADER = {"transformer.r": 4, "transformer.lora_alpha": 16}


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        (None, {}, "its header does not say rank and alpha"),
        (HEADER | {"transformer.r": 2}, {}, "r is 2, this training has 4: give `rank` 2"),
        (HEADER | {"transformer.lora_alpha": 4}, {}, "lora_alpha is 4, this training has 16: give `alpha` 4"),
        (HEADER | {"transformer.use_dora": True}, {}, "use_dora is True, only a plain LoRA"),
        ({"unet.r": 4, "unet.lora_alpha": 16}, {}, "component is 'unet', this training has 'transformer'"),
        (
            HEADER,
            {"transformer.proj.lora_A.weight": torch.zeros(4, 3)},
            r"transformer\.proj\.lora_A\.weight is \[4, 3\], this training has not there",
        ),
    ],
)
def test_an_adapter_of_another_program_is_taken_where_it_fits(
    header: dict[str, Any] | None,
    tensors: dict[str, Tensor],
    message: str,
    first: Path,
    make_config: Make,
    pairs: MemoryPairs,
) -> None:
    folder = first / "adapter"
    (folder / NOTE_NAME).unlink()
    rewrite(folder / WEIGHTS_NAME, HEADER)
    found = Trainer(make_config(from_adapter=folder), pairs)
    assert found.start is not None
    assert found.start.steps is None
    rewrite(folder / WEIGHTS_NAME, header, **tensors)
    with pytest.raises(UserError, match=message):
        Trainer(make_config(from_adapter=folder), pairs)


@pytest.mark.parametrize("damage", ["short", "text", "folder"])
def test_a_damaged_adapter_is_one_line(
    damage: str, first: Path, make_config: Make, pairs: MemoryPairs, tmp_path: Path
) -> None:
    path = first / "adapter" / WEIGHTS_NAME
    data = path.read_bytes()
    path.write_bytes(data[:-7] if damage == "short" else b"PK\x03\x04 a pickle of torch.save")
    folder = tmp_path / "nothing" if damage == "folder" else path.parent
    with pytest.raises(UserError, match=r"cannot be read|has no pytorch_lora_weights") as caught:
        train(make_config(from_adapter=folder), source=pairs)
    assert "\n" not in str(caught.value)
    assert re.search("give (a whole adapter|the folder)", str(caught.value))


def test_a_path_stands_for_an_adapter(first: Path, tmp_path: Path) -> None:
    assert locate_adapter(first) == first / "adapter"
    assert locate_adapter(first / "adapter") == first / "adapter"
    with pytest.raises(UserError, match=r"RUN/train/NAME"):
        locate_adapter(tmp_path)
