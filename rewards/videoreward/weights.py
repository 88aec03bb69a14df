"""Weights of VideoReward: where they are, their licence, how they are read and made of a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewards.errors import RewardError
from rewards.hub import cached_file, content_revision, read_json_object, recorded_name, require_same_tensors
from rewards.videoreward.network import VideoRewardNetwork, Words, build_network
from rewards.videoreward.settings import FETCH_PROMPT, PROMPT, VideoRewardConfig, read_config, read_prompt

_PUBLISHED = "KlingTeam/VideoReward"
BASE = "Qwen/Qwen2-VL-2B-Instruct"
_LICENSES = {_PUBLISHED: "Apache-2.0", "KwaiVGI/VideoReward": "Apache-2.0"}  # the second is its former name
_UNKNOWN = "unknown"
WEIGHTS, SETTINGS, QWEN, TOKENIZER = "model.safetensors", "model_config.json", "config.json", "tokenizer.json"
_FILES = (WEIGHTS, SETTINGS, QWEN, TOKENIZER, PROMPT)
_FETCH = " && ".join(
    (
        f"hf download {_PUBLISHED}",
        f"hf download {BASE} {QWEN} {TOKENIZER}",
        FETCH_PROMPT,
        "gpa convert-videoreward --prompt prompt_template.py",
    )
)
_LANGUAGE_HEAD = "base_model.model.lm_head.weight"
# Names in the checkpoint (peft around the classes of transformers 4.45) and in the network, by their starts.
_STARTS = (
    ("base_model.model.visual.", "model.visual."),
    ("base_model.model.model.", "model.language_model."),
    ("base_model.model.rm_head.", "rm_head."),
)
_EMBEDDING = "base_model.model.model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class VideoRewardWeights:
    """Weights on disk. revision is the Hub's commit, or a hash of the files of a local folder."""

    model: str
    revision: str
    license: str
    folder: Path
    config: VideoRewardConfig


def converted_folder() -> Path:
    """Where `gpa convert-videoreward` writes and a judge without a model looks: in the Hub's assets cache."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "gpa" / "videoreward"


def find_weights(model: str | None) -> VideoRewardWeights:
    """Find safetensors weights: a folder, a Hub id in the cache, or (None) what this machine has converted.

    Nothing is downloaded, and no pickle is read. Raises RewardError saying what is missing and how to get it.
    """
    if model is None:
        model = str(converted_folder()) if (converted_folder() / WEIGHTS).is_file() else _PUBLISHED
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / WEIGHTS).is_file():
            raise RewardError(_no_weights(str(folder), _pickled(folder)))
        return _described(folder, recorded_name(folder), None)
    found = cached_file(model, None, WEIGHTS)
    if found is None:
        raise RewardError(_no_weights(model, model in _LICENSES or _pickled(_snapshot(model))))
    return _described(found.parent, model, found.parent.name)


def _pickled(folder: Path | None) -> Path | None:
    """The published kind of weights in a folder: the last checkpoint's model.pth."""
    found = [] if folder is None else [*folder.glob("checkpoint-*/model.pth"), *folder.glob("model.pth")]
    return max(found, key=_step, default=None)


def _snapshot(name: str) -> Path | None:
    """The folder of a Hub model in the cache that holds the settings of a VideoReward."""
    found = cached_file(name, None, SETTINGS)
    return None if found is None else found.parent


def load_network(weights: VideoRewardWeights, device: str = "cpu") -> tuple[VideoRewardNetwork, Words]:
    """The network with its weights, strictly, and the tokenizer: bfloat16 on a GPU, float32 on a CPU.

    Raises RewardError naming the file and what differs from it.
    """
    path = weights.folder / WEIGHTS
    prompt = read_prompt(weights.folder / PROMPT, weights.config.prompt_sha256)
    words = Words(weights.folder / TOKENIZER, prompt)
    try:
        checkpoint = load_file(path, device=device)
    except SafetensorError as error:
        raise RewardError(f"{path} is not a readable safetensors file ({error}); convert it again") from error
    network = fit_network(path, checkpoint, weights.config, weights.folder / QWEN, words)
    return network.to(device, torch.float32 if device == "cpu" else torch.bfloat16), words


def fit_network(
    path: Path, checkpoint: Mapping[str, Tensor], config: VideoRewardConfig, qwen: Path, words: Words
) -> VideoRewardNetwork:
    """The network with a checkpoint's tensors. path names the checkpoint in errors, which are RewardError."""
    if _EMBEDDING not in checkpoint:
        raise RewardError(f"{path} has no {_EMBEDDING}: these are not weights of VideoReward; {_remedy()}")
    rows = checkpoint[_EMBEDDING].shape[0]
    if rows != words.size:
        raise RewardError(
            f"{path} knows {rows} tokens, {TOKENIZER} with the reward tokens {words.size}; take "
            f"{TOKENIZER} from {BASE}"
        )
    try:
        network = build_network(read_json_object(qwen), config, rows, words.reward_ids)
    except (AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
        why = " ".join(str(error).split())
        raise RewardError(f"{qwen} does not describe a Qwen2-VL ({why}); take it from {BASE}") from error
    state = {_renamed(name): tensor for name, tensor in checkpoint.items() if name != _LANGUAGE_HEAD}
    require_same_tensors(path, state, network.state_dict())
    network.load_state_dict(state, assign=True)
    return network


def _described(folder: Path, name: str, revision: str | None) -> VideoRewardWeights:
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise RewardError(f"VideoReward in {folder} has no {missing[0]}; {_remedy()}")
    settings = folder / SETTINGS
    license_name = _LICENSES.get(name) or str(read_json_object(settings).get("license", _UNKNOWN))
    config = read_config(settings)
    read_prompt(folder / PROMPT, config.prompt_sha256)
    if revision is None:
        hashes = "".join(content_revision(folder / file) for file in _FILES)
        revision = hashlib.sha256(hashes.encode()).hexdigest()[:32]
    return VideoRewardWeights(
        model=name, revision=revision, license=license_name, folder=folder, config=config
    )


def _no_weights(name: str, is_pickle: object) -> str:
    if is_pickle:
        licence = f" (licence: {_LICENSES[name]})" if name in _LICENSES else ""
        return (
            f"VideoReward {name}{licence} is a pickle, which may run code when it is read, not {WEIGHTS}; "
            f"{_remedy()}"
        )
    fetch = "" if Path(name).is_dir() else f"fetch it with hf download {name}, or "
    return f"{name} holds no {WEIGHTS} of VideoReward on this machine; {fetch}{_remedy()}"


def _remedy() -> str:
    return f"make safe weights once, with the prompt of the published code (MIT), by: {_FETCH}"


def _renamed(name: str) -> str:
    for start, ours in _STARTS:
        if name.startswith(start):
            return ours + name.removeprefix(start)
    return name


def _step(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def convert(checkpoint: str, base: str, prompt: Path, folder: Path) -> Path:
    """Write `folder` (weights, settings, prompt, Qwen2-VL's config, tokenizer) from a published checkpoint.

    checkpoint and base are folders or ids in the Hub's cache: VideoReward (model_config.json and
    checkpoint-*/model.pth) and the Qwen2-VL it was trained from (config.json, tokenizer.json). prompt is the
    published prompt_template.py or a file of the template alone, and must be what the checkpoint was trained
    with. The tensors keep their names and types; the language head, which no reward needs, is left out. The
    folder appears whole or not at all. Raises RewardError.
    """
    if folder.exists():
        raise RewardError(f"{folder} exists; remove it or choose another folder")
    source = _holding(checkpoint, (SETTINGS,), f"hf download {_PUBLISHED}")
    qwen = _holding(base, (QWEN, TOKENIZER), f"hf download {BASE} {QWEN} {TOKENIZER}")
    weights = _pickled(source)
    if weights is None:
        raise RewardError(f"{source} has no checkpoint-*/model.pth; fetch it with: hf download {_PUBLISHED}")
    config = read_config(source / SETTINGS)
    template = read_prompt(prompt, config.prompt_sha256)
    state = _read_pickle(weights)
    fit_network(weights, state, config, qwen / QWEN, Words(qwen / TOKENIZER, template))
    state.pop(_LANGUAGE_HEAD, None)
    about = {"license": _LICENSES.get(checkpoint, _UNKNOWN), "source": f"{checkpoint} {weights.parent.name}"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        whole.mkdir()
        save_file(state, whole / WEIGHTS)
        for file in (QWEN, TOKENIZER):
            shutil.copyfile(qwen / file, whole / file)
        (whole / PROMPT).write_bytes(template.encode())
        (whole / SETTINGS).write_text(
            json.dumps(read_json_object(source / SETTINGS) | about, indent=1) + "\n"
        )
        for path in whole.iterdir():
            _sync(path)
        whole.rename(folder)
    return folder


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle; what else it asks for is refused, so that nothing in it runs (RewardError)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise RewardError(
            f"{path} asks for more than tensors and was not read: that may run code; fetch {_PUBLISHED} again"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise RewardError(f"{path} cannot be read ({error}); fetch {_PUBLISHED} again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RewardError(f"{path} is not a dictionary of tensors; fetch {_PUBLISHED} again")
    return dict(state)


def _holding(name: str, files: tuple[str, ...], fetch: str) -> Path:
    """The folder, or the snapshot of the Hub id in the cache, that has these files."""
    folder: Path | None = Path(name).expanduser()
    if not Path(name).expanduser().is_dir():
        found = cached_file(name, None, files[0])
        folder = None if found is None else found.parent
    missing = [file for file in files if folder is None or not (folder / file).is_file()]
    if folder is None or missing:
        raise RewardError(f"{name} has no {missing[0]} on this machine; fetch it with: {fetch}")
    return folder


def _sync(path: Path) -> None:
    """Wait until a file is on the disk, so that its folder never appears without it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
