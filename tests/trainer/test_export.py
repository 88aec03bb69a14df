"""The exported adapter in the real pipeline class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from safetensors import safe_open

from storage.adapters import NOTE_NAME, WEIGHTS_NAME, sha256
from trainer.config import TrainConfig
from trainer.loop import Trainer
from trainer.processes import StopRequest
from trainer.saving.checkpoint import write_tensors
from trainer.train import train


@pytest.fixture
def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    return {
        "hidden_states": torch.randn(2, 3, 8, 4, 6, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 12, generator=generator),
        "timestep": torch.tensor([100, 900]),
        "return_dict": False,
    }


@torch.no_grad()
def output(transformer: Any, inputs: dict[str, Any]) -> torch.Tensor:
    result: torch.Tensor = transformer(**inputs)[0]
    return result


def test_loads_with_alpha_equals_the_trained_model_and_unloads(
    make_config: Callable[..., TrainConfig],
    make_pairs: Callable[..., Any],
    make_transformer: Callable[..., Any],
    make_scheduler: Callable[[], Any],
    inputs: dict[str, Any],
) -> None:
    trainer = Trainer(make_config(rank=4, alpha=16, lr=1e-2), make_pairs(4))
    trainer.run(StopRequest(), None)
    adapter_dir = trainer.finish().adapter_dir
    trained = output(trainer.family.transformer, inputs)

    pipe = CogVideoXImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=make_transformer(),
        scheduler=make_scheduler(),
    )
    base = output(pipe.transformer, inputs)
    pipe.load_lora_weights(adapter_dir)
    loaded = output(pipe.transformer, inputs)
    assert (loaded - base).abs().max() > 1e-3
    assert torch.equal(loaded, trained)
    assert {
        module.scaling["default_0"] for module in pipe.transformer.modules() if hasattr(module, "scaling")
    } == {4.0}
    pipe.unload_lora_weights()
    assert torch.equal(output(pipe.transformer, inputs), base)


def test_the_note_names_the_base_and_the_file_it_belongs_to(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    result = train(make_config(), source=make_pairs(3))
    note = json.loads((result.adapter_dir / NOTE_NAME).read_text())
    assert [note[name] for name in ("base_model", "base_revision", "rank", "alpha")] == ["tiny", "r1", 4, 16]
    assert note["training"]["steps"] == 6
    assert note["training"]["beta"] == 500.0
    assert note["sha256"] == sha256(result.adapter_dir / WEIGHTS_NAME)


def test_the_run_folder_says_what_was_done(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config = make_config(report_to=("tensorboard",))
    result = train(config, source=make_pairs(3))
    saved = json.loads((config.out_dir / "config.json").read_text())
    assert saved == config.to_json()
    assert any((config.out_dir / "tensorboard").iterdir())
    assert result.steps == 6
    lines = [json.loads(line) for line in (config.out_dir / "metrics.jsonl").read_text().splitlines()]
    assert result.metrics["loss"] == pytest.approx(sum(line["loss"] for line in lines) / 6)
    assert not list(config.out_dir.rglob("*.pt")) + list(config.out_dir.rglob("*.bin"))


def test_the_same_adapter_is_the_same_file(tmp_path: Path) -> None:
    """Its hash names the videos that were sampled with it."""
    tensors = {"ä.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}
    metadata = {name: name * 3 for name in ("format", "zebra", "apple", "mango", "kiwi")}
    digests = set()
    for number in range(8):
        write_tensors(tmp_path / str(number), tensors, metadata)
        digests.add(sha256(tmp_path / str(number)))
    assert len(digests) == 1
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
