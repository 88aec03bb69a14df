"""Video models: what a name stands for, its revision, and how its diffusers pipeline is loaded."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from storage.adapters import NOTE_NAME, WEIGHTS_NAME, locate_adapter, sha256
from storage.errors import UserError
from storage.tables.ids import content_id
from storage.texts import require_utf8_name

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]

WORLD = "world"
_CHECKPOINTS = Path(__file__).parent / "world" / "checkpoints"
# The embedded model and its sibling, whose fault is that boxes slide instead of a warp.
PACKAGED: dict[str, Path] = {
    WORLD: _CHECKPOINTS / "generator",
    "world-boxes": _CHECKPOINTS / "generator-boxes",
}
# Modules that define pipeline components of this project. diffusers resolves a component from a module that
# the caller has imported, never from a name it reads in a model folder; so only these are ever imported.
_COMPONENT_MODULES = ("pipeline.world.codec",)
_FULL_HASH_BYTES = 100 * 2**20
_EDGE_BYTES = 2**20
_MODEL_FILES = (".json", ".safetensors", ".txt", ".model")


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A model that is on this machine: its recorded name and revision, its folder and its pipeline class."""

    name: str
    revision: str
    path: Path
    family: str


@dataclass(frozen=True, kw_only=True)
class AdapterRef:
    """A LoRA folder and the content hash that names it in rows."""

    path: Path
    id: str


def resolve_model(name: str, revision: str | None = None) -> ModelRef:
    """Find a model: `world`, `world-boxes`, a local diffusers folder or a Hub id.

    The revision of a folder is a hash of its files, the revision of a Hub model its commit. A folder is
    recorded by its last name, so that a run stays valid when the folder moves. Raises UserError, naming the
    remedy.
    """
    packaged = PACKAGED.get(name)
    path = packaged if packaged is not None else Path(name).expanduser()
    if packaged is not None or path.is_dir():
        if revision is not None:
            raise UserError(
                f"`revision` {revision} is for Hub models; {name!r} is a folder: leave `revision` out"
            )
        recorded = name if packaged is not None else path.resolve().name
        # Rows hold it.
        require_utf8_name(path, "the model")
        return ModelRef(
            name=recorded, revision=_folder_revision(path, name), path=path, family=_family(path, name)
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"model {name!r} is no folder here and no Hub id (owner/name): use {WORLD!r} or one of these"
        )
    snapshot = _hub_snapshot(name, revision)
    return ModelRef(name=name, revision=snapshot.name, path=snapshot, family=_family(snapshot, name))


def model_index(model: ModelRef) -> dict[str, Any]:
    """What the model's folder says of its pipeline (model_index.json). Raises UserError."""
    return _read_json(model.path / "model_index.json", f"model {model.name!r}")


def resolve_adapter(path: Path, model: ModelRef) -> AdapterRef:
    """Find a LoRA folder and check that it is whole and was trained on this very model.

    `path` may be a training's folder: its adapter, or its newest checkpoint. Raises UserError.
    """
    path = locate_adapter(path)
    about = _read_json(path / NOTE_NAME, f"adapter {path}")
    base = (about.get("base_model"), about.get("base_revision"))
    if base != (model.name, model.revision):
        raise UserError(
            f"adapter {path} was trained on {base[0]} at {base[1]}, not on {model.name} at {model.revision}: "
            "use it with its own base model (`model`, `revision`)"
        )
    return AdapterRef(path=path.absolute(), id=adapter_id(path))


def adapter_id(path: Path) -> str:
    """What rows call an adapter, which `path` names as in `resolve_adapter`. Raises UserError."""
    path = locate_adapter(path)
    digest = sha256(path / WEIGHTS_NAME)
    if _read_json(path / NOTE_NAME, f"adapter {path}").get("sha256") != digest:
        raise UserError(f"adapter {path}: {WEIGHTS_NAME} is not the file that was exported: train it again")
    return content_id(digest)


def load_pipeline(
    model: ModelRef,
    precision: Precision,
    device: str,
    pipeline_class: type[Any],
    fp32_components: Sequence[str] = (),
) -> Any:
    """Load the model as `pipeline_class` onto a device, all but `fp32_components` in the given precision.

    Raises UserError when its files do not load.
    """
    import torch
    from safetensors import SafetensorError

    dtypes = dict.fromkeys(fp32_components, torch.float32) | {"default": torch_dtype(precision)}
    for module in _component_modules(model.path):
        importlib.import_module(module)
    try:
        with _quiet():
            pipe = pipeline_class.from_pretrained(
                model.path, torch_dtype=dtypes, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"model {model.name!r} in {model.path} does not load: {error}; get its files again"
        ) from error
    return pipe.to(device)


def torch_dtype(precision: Precision) -> torch.dtype:
    """The torch type of a precision name."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def pick_device(gpus: float) -> str:
    """`cuda` for a worker that asks for a share of a GPU, else `cpu`. Raises UserError without a GPU."""
    import torch

    if gpus <= 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(f"gpus_per_worker {gpus:g} asks for a GPU and torch sees none: use gpus_per_worker 0")
    return "cuda"


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of the libraries (a command shows its own), and no notes on what is meant as it is."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    verbosity = diffusers_logging.get_verbosity()
    # diffusers notes that a codec of this project is not of the class that the pipeline's signature names.
    diffusers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # The argument's new name does not exist in every diffusers that is supported.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            yield
    finally:
        diffusers_logging.set_verbosity(verbosity)


def _component_modules(folder: Path) -> set[str]:
    index = _read_json(folder / "model_index.json", f"model folder {folder}")
    named = {entry[0] for entry in index.values() if isinstance(entry, list) and entry}
    return named.intersection(_COMPONENT_MODULES)


def _family(folder: Path, name: str) -> str:
    index = _read_json(folder / "model_index.json", f"model {name!r}")
    family = index.get("_class_name")
    if not isinstance(family, str):
        raise UserError(
            f"model {name!r}: {folder / 'model_index.json'} names no _class_name: it is not a diffusers model"
        )
    return family


def _read_json(path: Path, owner: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{owner} has no {path.name}: give a complete folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{owner}: {path.name} cannot be read ({error}): get the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{owner}: {path.name} must hold a JSON object: get the file again")
    return value


def _folder_revision(folder: Path, name: str) -> str:
    files = list(_model_files(folder))
    if not files:
        raise UserError(
            f"model {name!r}: {folder} holds no weights: run `gpa pretrain-world` or get its files"
        )
    return content_id([[path.relative_to(folder).as_posix(), _file_digest(path)] for path in files])


def _model_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in _MODEL_FILES)


def _file_digest(path: Path) -> str:
    """A hash of a file; of its size, start and end when it is too large to read for every command."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _FULL_HASH_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        head = file.read(_EDGE_BYTES)
        file.seek(-_EDGE_BYTES, os.SEEK_END)
        return content_id(size, head, file.read())


def _hub_snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        wanted = name if revision is None else f"{name} --revision {revision}"
        raise UserError(
            f"model {name!r} is not in the local cache and the Hub did not give it ({type(error).__name__}): "
            f"with a connection run `hf download {wanted}`, or give a local folder"
        ) from error
