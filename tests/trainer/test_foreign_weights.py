"""Weights that are no safetensors are refused in one line, and never unpickled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from storage.errors import UserError
from trainer.families import load_family

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.mark.parametrize("data", [b"PK\x03\x04" + b"x" * 99, b"\x80\x04\x95" + b"x" * 99, b""])
def test_an_archive_or_a_pickle_in_the_place_of_weights_is_named(model: Path, data: bytes) -> None:
    (model / WEIGHTS).write_bytes(data)
    with pytest.raises(UserError, match=r"the model in .* cannot be read"):
        load_family(model, torch.float32)


def test_pickled_weights_are_not_a_second_choice(model: Path) -> None:
    state = load_family(model, torch.float32).transformer.state_dict()
    (model / WEIGHTS).unlink()
    torch.save(state, (model / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(UserError, match=r"the model in .* cannot be read"):
        load_family(model, torch.float32)
