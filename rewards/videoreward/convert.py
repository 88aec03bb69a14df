"""The published pickle of VideoReward as safetensors, read without running anything that it holds."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rewards.errors import RewardError
from rewards.hub import cached_file, read_json_object
from rewards.videoreward.config import read_config
from rewards.videoreward.inputs import Words
from rewards.videoreward.prompt import PROMPT, read_prompt
from rewards.videoreward.weights import (
    BASE,
    LANGUAGE_HEAD,
    LICENSES,
    PUBLISHED,
    QWEN,
    SETTINGS,
    TOKENIZER,
    UNKNOWN,
    WEIGHTS,
    fit_network,
    pickled,
)


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
    source = _holding(checkpoint, (SETTINGS,), f"hf download {PUBLISHED}")
    qwen = _holding(base, (QWEN, TOKENIZER), f"hf download {BASE} {QWEN} {TOKENIZER}")
    weights = pickled(source)
    if weights is None:
        raise RewardError(f"{source} has no checkpoint-*/model.pth; fetch it with: hf download {PUBLISHED}")
    config = read_config(source / SETTINGS)
    template = read_prompt(prompt, config.prompt_sha256)
    state = read_pickle(weights)
    fit_network(weights, state, config, qwen / QWEN, Words(qwen / TOKENIZER, template))
    state.pop(LANGUAGE_HEAD, None)
    about = {"license": LICENSES.get(checkpoint, UNKNOWN), "source": f"{checkpoint} {weights.parent.name}"}
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


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle; what else it asks for is refused, so that nothing in it runs (RewardError)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise RewardError(
            f"{path} asks for more than tensors and was not read: that may run code; fetch {PUBLISHED} again"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise RewardError(f"{path} cannot be read ({error}); fetch {PUBLISHED} again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RewardError(f"{path} is not a dictionary of tensors; fetch {PUBLISHED} again")
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
