"""Files of a model: a local folder or the Hub's cache, revisions, and what their safetensors must hold.

Nothing is downloaded: weights of several GB under a licence of their own are fetched by an explicit command.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rewards.errors import RewardError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Size, Tensor, nn

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ModelT = TypeVar("ModelT", bound="nn.Module")


def cached_file(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a Hub model if it is on this machine. Raises RewardError for what is no id of the Hub."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except ValueError as error:  # such as a path that does not exist
        raise RewardError(f"model {name} is neither a folder nor a Hub id; give one of them") from error
    return Path(found) if isinstance(found, str) else None


def content_revision(path: Path) -> str:
    """The revision of a local file of weights: the start of its SHA-256."""
    # Several checks of one command ask for it, and weights are gigabytes.
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns)[:32]


@lru_cache(maxsize=16)
def _digest(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_name(folder: Path) -> str:
    """The name under which scores keep a local folder: its last, so that they stay valid when it moves."""
    return folder.resolve().name


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file as a dictionary. Raises RewardError naming the file when it is none."""
    try:
        raw = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RewardError(f"{path} is not JSON; replace it with the config.json of the weights") from error
    if not isinstance(raw, dict):
        raise RewardError(f"{path} is not a JSON object; replace it with the config.json of the weights")
    return raw


def require_same_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise RewardError, naming the first difference, unless names and shapes are those of the model."""
    shapes = [{name: tensor.shape for name, tensor in side.items()} for side in (found, expected)]
    differ = sorted(name for name in {*found, *expected} if shapes[0].get(name) != shapes[1].get(name))
    if differ:
        here, wanted = (_show(side.get(differ[0])) for side in shapes)
        raise RewardError(
            f"{path} does not fit its config: {len(differ)} tensors differ, first {differ[0]} "
            f"({here}, not {wanted}); use its own config.json"
        )


def _show(shape: Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def save_checkpoint(model: nn.Module, config: DataclassInstance, directory: str | Path) -> None:
    """Write config.json and model.safetensors of a small model into `directory`."""
    from safetensors.torch import save_file

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(asdict(config), indent=2) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)


def load_checkpoint(directory: str | Path, what: str, build: Callable[[dict[str, Any]], ModelT]) -> ModelT:
    """The model that `build` makes of a configuration, with its weights, in evaluation mode.

    Weights kept in half precision become what the model is in. Raises RewardError naming `what` is wrong.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(directory)
    try:
        model = build(json.loads((folder / CONFIG).read_text()))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise RewardError(
            f"{what} weights in {folder} cannot be read ({str(error).splitlines()[0]}); "
            "run `gpa pretrain-world` or reinstall the package"
        ) from error
    return model.eval()
