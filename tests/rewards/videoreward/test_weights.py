"""Finding, reading and converting weights: safetensors only, names and shapes checked, nothing run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rewards.errors import RewardError
from rewards.videoreward import weights as conversion
from rewards.videoreward.weights import convert, converted_folder, find_weights, load_network
from tests.rewards.videoreward.tiny import checkpoint, settings, write_base, write_prompt, write_published

CONVERT = (
    "hf download KlingTeam/VideoReward && .*prompt_template.py && gpa convert-videoreward --prompt prompt_"
)


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_published(tmp_path / "VideoReward")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "Qwen")


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    return write_prompt(tmp_path)


@pytest.fixture
def converted(published: Path, base: Path, prompt: Path, tmp_path: Path) -> Path:
    return convert(str(published), str(base), prompt, tmp_path / "safe" / "videoreward")


def test_a_conversion_holds_the_same_tensors_and_loads(converted: Path) -> None:
    written, given = load_file(converted / "model.safetensors"), checkpoint()
    del given["base_model.model.lm_head.weight"]
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], given[name]) for name in given)
    assert [path.name for path in converted.parent.iterdir()] == ["videoreward"]
    weights = find_weights(str(converted))
    assert (weights.model, weights.license) == ("videoreward", "unknown")
    network, words = load_network(weights)
    assert words.size == network.model.language_model.embed_tokens.weight.shape[0]
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_conversion_from_the_hubs_cache_is_found_without_a_name(
    published: Path, base: Path, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in (("KlingTeam/VideoReward", published), ("Qwen/Qwen2-VL-2B-Instruct", base)):
        root = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("abc123")
        (root / "snapshots").mkdir()
        folder.rename(root / "snapshots" / "abc123")
    with pytest.raises(RewardError, match=rf"\(licence: Apache-2.0\) is a pickle.*; .*{CONVERT}"):
        find_weights(None)
    assert not converted_folder().exists()
    convert("KlingTeam/VideoReward", "Qwen/Qwen2-VL-2B-Instruct", prompt, converted_folder())
    found = find_weights(None)
    assert (found.folder, found.license) == (converted_folder(), "Apache-2.0")
    assert json.loads((found.folder / "model_config.json").read_text())["source"] == (
        "KlingTeam/VideoReward checkpoint-7"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(RewardError, match="is a pickle"):
        find_weights(None)


class _Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_unrun(
    published: Path, base: Path, prompt: Path, tmp_path: Path
) -> None:
    hostile = {**checkpoint(), "base_model.model.rm_head.bias": _Touch(tmp_path / "owned")}
    torch.save(hostile, published / "checkpoint-7" / "model.pth")
    with pytest.raises(RewardError, match="asks for more than tensors and was not read: that may run code"):
        convert(str(published), str(base), prompt, tmp_path / "out")
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "out").exists()


def test_an_interrupted_conversion_leaves_nothing(
    published: Path, base: Path, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_sync", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(str(published), str(base), prompt, tmp_path / "out" / "here")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_conversion_needs_and_refuses(
    published: Path, base: Path, prompt: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RewardError, match=r"has no model_config.json on this machine; .*: hf download Kling"):
        convert("KlingTeam/VideoReward", str(base), prompt, out)
    (base / "tokenizer.json").rename(base / "kept")
    with pytest.raises(RewardError, match=r"has no tokenizer.json on this machine; .*: hf download Qwen"):
        convert(str(published), str(base), prompt, out)
    (base / "kept").rename(base / "tokenizer.json")
    with pytest.raises(RewardError, match="exists; remove it or choose another folder"):
        convert(str(published), str(base), prompt, base)
    pickle = published / "checkpoint-7" / "model.pth"
    whole = pickle.read_bytes()
    pickle.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RewardError, match=r"model.pth cannot be read"):
        convert(str(published), str(base), prompt, out)
    torch.save([torch.zeros(2)], pickle)
    with pytest.raises(RewardError, match="is not a dictionary of tensors"):
        convert(str(published), str(base), prompt, out)
    torch.save({"weight": torch.zeros(2)}, pickle)
    with pytest.raises(RewardError, match="these are not weights of VideoReward"):
        convert(str(published), str(base), prompt, out)
    pickle.unlink()
    with pytest.raises(RewardError, match=r"has no checkpoint-\*/model.pth"):
        convert(str(published), str(base), prompt, out)
    assert not out.exists()


def test_weights_that_are_not_there_say_how_to_get_them(published: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=f"VideoReward .* is a pickle, which may run code.*; .*{CONVERT}"):
        find_weights(str(published))
    with pytest.raises(
        RewardError,
        match=f"someone/else holds no .*; fetch it with hf download someone/else, or .*{CONVERT}",
    ):
        find_weights("someone/else")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RewardError, match=f"empty holds no model.safetensors.*; .*{CONVERT}"):
        find_weights(str(tmp_path / "empty"))
    with pytest.raises(RewardError, match="neither a folder nor a Hub id"):
        find_weights(str(tmp_path / "nowhere" / "at" / "all"))


def test_a_folder_that_does_not_fit_together_is_refused(converted: Path) -> None:
    weights, file = find_weights(str(converted)), converted / "model.safetensors"
    whole = load_file(file)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"
    save_file({**whole, name: torch.zeros(5, 48)}, file)
    with pytest.raises(RewardError, match=r"1 tensors differ.*q_proj.lora_A.*\(\(5, 48\), not \(4, 48\)\)"):
        load_network(weights)
    save_file({other: tensor for other, tensor in whole.items() if other != name}, file)
    with pytest.raises(RewardError, match=r"1 tensors differ.*\(none, not \(4, 48\)\)"):
        load_network(weights)
    save_file({**whole, "base_model.model.model.embed_tokens.weight": torch.zeros(260, 48)}, file)
    with pytest.raises(RewardError, match=r"knows 260 tokens, tokenizer.json with the reward tokens 267"):
        load_network(weights)
    file.write_bytes(b"12345678")
    with pytest.raises(RewardError, match="not a readable safetensors file"):
        load_network(weights)
    save_file(whole, file)
    (converted / "config.json").write_text(json.dumps({"hidden_size": "wide"}))
    with pytest.raises(RewardError, match=r"config.json does not describe a Qwen2-VL"):
        load_network(weights)
    (converted / "config.json").unlink()
    with pytest.raises(RewardError, match=f"has no config.json; .*{CONVERT}"):
        find_weights(str(converted))


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        (
            "data_config",
            "prompt_template_type",
            "simple",
            "prompt_template_type is 'simple', not 'detailed_s",
        ),
        ("data_config", "sample_type", "multi_pts", "sample_type is 'multi_pts', not 'uniform'"),
        ("model_config", "use_special_tokens", False, "use_special_tokens is False, not True"),
        ("model_config", "output_dim", 2, "output_dim must be 1 or 3, got 2"),
        ("data_config", "fps", 0, "fps must be > 0"),
        ("data_config", "fps", "fast", "could not convert"),
        ("inference_config", "MQ_std", 0, "standard deviations must be > 0"),
        ("inference_config", "MQ_std", None, "has no MQ_std; fetch it again"),
    ],
)
def test_settings_of_another_kind_are_refused(
    converted: Path, section: str, field: str, value: object, message: str
) -> None:
    changed = settings()
    changed[section][field] = value
    if value is None:
        del changed[section][field]
    (converted / "model_config.json").write_text(json.dumps(changed))
    with pytest.raises(RewardError, match=message):
        find_weights(str(converted))
