"""What an adapter was trained on, so that an evaluation can leave it out.

adapter/trained_on.json holds the scenes and prompts of its pairs, as hashes of 48 bits: sorted, some 6 MB for
100,000 scenes, and what a data set shows is not told to whoever is given the adapter.

A scene goes by two names, that which a prompts file gives it and that of its content: the first frame, or the
text where there is none. So a picture that is called another scene elsewhere is known again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.adapters import NOTE_NAME, WEIGHTS_NAME
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.media.pictures import read_image
from storage.run import RUN_FILE, Run
from storage.tables.ids import content_id, content_scene
from storage.tables.shards import read_rows

FILE_NAME = "trained_on.json"
_FORMAT = 1
_KEY_DIGITS = 12
_COLUMNS = ["pair_id", "prompt_id", "scene_id", "split", "text"]
_READERS = 8


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The pairs of a training, of an adapter that it continued too, by the keys of scenes and prompts.

    Of trainings that go on from each other the numbers add up: a prompt that two of them took counts twice.
    `first_frames` counts the prompts whose picture is among the keys: the rest had none, or lay in no run.
    `complete` is False where it continued an adapter of which nothing is known.
    """

    pairs: int
    prompts: int
    scenes: int
    first_frames: int
    complete: bool
    keys: frozenset[str]

    def knows(self, *, prompt_id: str, scene_id: str, content: str) -> str | None:
        """By what a prompt was trained on: "scene", "content" or "prompt"; None for one that was not.

        `content` is its scene by content, of `content_scene`.
        """
        asked = {"scene": ("scene", scene_id), "content": ("scene", content), "prompt": ("prompt", prompt_id)}
        return next((name for name, (kind, value) in asked.items() if _key(kind, value) in self.keys), None)

    def joined(self, other: TrainedOn | None) -> TrainedOn:
        """This training with one before it; None is one of which nothing is known."""
        if other is None:
            return replace(self, complete=False)
        return TrainedOn(
            pairs=self.pairs + other.pairs,
            prompts=self.prompts + other.prompts,
            scenes=self.scenes + other.scenes,
            first_frames=self.first_frames + other.first_frames,
            complete=self.complete and other.complete,
            keys=self.keys | other.keys,
        )


def write_trained_on(
    adapter: Path, pairs_dir: Path, split: str | None, limit: int | None, started_from: Path | None = None
) -> None:
    """Write what an adapter was trained on beside it: pairs of `split` (None: all), at most `limit`.

    Adds what `started_from`, the adapter that the training continued, was trained on. First frames are read
    from the run that the pairs lie in. Raises UserError for a shard that cannot be read.
    """
    found, _ = _of_pairs(pairs_dir, split, limit)
    if started_from is not None:
        found = found.joined(trained_on(started_from))
    note = json.loads((adapter / NOTE_NAME).read_text(encoding="utf-8"))
    told = {"format": _FORMAT, "adapter": note["sha256"], **asdict(found), "keys": sorted(found.keys)}
    write_bytes(adapter / FILE_NAME, json.dumps(told).encode())


def trained_on(adapter: Path) -> TrainedOn | None:
    """What an adapter was trained on; None where that is not known.

    As its file says; without one, as the pairs say of the training (RUN/train/NAME) that it lies in, if they
    are still those. `adapter` may be the folder of a training, or of one of its checkpoints.
    """
    for folder in (adapter, adapter / "adapter"):
        if (folder / WEIGHTS_NAME).is_file():
            found = _of_file(folder)
            if found is not None:
                return found
    return _of_training(adapter)


def _key(kind: str, value: str) -> str:
    return content_id("trained on", kind, value)[:_KEY_DIGITS]


def _of_file(folder: Path) -> TrainedOn | None:
    """What the file beside an adapter says, if it is of these very weights."""
    try:
        told = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        note = json.loads((folder / NOTE_NAME).read_text(encoding="utf-8"))
        if told.pop("format") != _FORMAT or told.pop("adapter") != note["sha256"]:
            return None
        return TrainedOn(**told | {"keys": frozenset(told["keys"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _of_training(adapter: Path) -> TrainedOn | None:
    """What the pairs of the training say that an adapter lies in, if they are those that it was given."""
    at = adapter.resolve()
    folder = next((one for one in (at, *at.parents[:2]) if one.parent.name == "train"), None)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        given = _given_pairs(at, folder)
        own = folder.parent.parent
        before = config.get("from_adapter")
        # The run may have moved since.
        moved = own / "ablate" / "pairs" / Path(config["pairs_dir"]).name
        for pairs in (Path(config["pairs_dir"]), own / "pairs", moved):
            found, fingerprint = _of_pairs(pairs, config["split"], config.get("max_pairs"))
            if found.pairs and fingerprint == given:
                return found if before is None else found.joined(trained_on(Path(before)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return None
    return None


def _given_pairs(at: Path, folder: Path) -> Any:
    """The fingerprint of the pairs of a training, as its adapter or a checkpoint has it."""
    for note in (at / NOTE_NAME, folder / "adapter" / NOTE_NAME):
        if note.is_file():
            return json.loads(note.read_text(encoding="utf-8"))["training"]["pairs"]
    states = [at / "state.json", *sorted(folder.glob("checkpoints/*/state.json"), reverse=True)]
    state = next(one for one in states if one.is_file())
    return json.loads(state.read_text(encoding="utf-8"))["config"]["pairs"]


def _of_pairs(directory: Path, split: str | None, limit: int | None) -> tuple[TrainedOn, str]:
    """What a training takes of the pairs of a directory, and the fingerprint that it knows them by."""
    rows = read_rows(directory, "pairs", _COLUMNS)
    if split is not None:
        rows = rows.filter(pc.equal(rows["split"], split))
    rows = rows.sort_by("pair_id").slice(0, limit)
    scenes, prompts = set(rows["scene_id"].to_pylist()), set(rows["prompt_id"].to_pylist())
    pictures = list(_pictures(directory, rows))
    contents = {content_scene(text) for text in rows["text"].to_pylist()} | set(pictures)
    found = TrainedOn(
        pairs=rows.num_rows,
        prompts=len(prompts),
        scenes=len(scenes),
        first_frames=len(pictures),
        complete=True,
        keys=frozenset({*_keys("scene", scenes | contents), *_keys("prompt", prompts)}),
    )
    return found, content_id(rows["pair_id"].to_pylist())


def _keys(kind: str, values: Iterable[str]) -> Iterator[str]:
    return (_key(kind, value) for value in values)


def _pictures(directory: Path, rows: pa.Table) -> Iterator[str]:
    """The scenes by content of the first frames that the run of these pairs still has."""
    folder = next((one for one in directory.resolve().parents if (one / RUN_FILE).is_file()), None)
    if folder is None or not rows.num_rows:
        return
    run = Run.open(folder)
    prompts = run.rows("prompts", ["prompt_id", "image_uri"])
    wanted = pc.is_in(prompts["prompt_id"], value_set=pc.unique(rows["prompt_id"]))
    uris = pc.drop_null(prompts.filter(wanted)["image_uri"]).to_pylist()

    def scene(uri: str) -> str | None:
        try:
            return content_scene("", read_image(run.resolve(uri)))
        except UserError:
            return None

    # Decoding lets go of the interpreter.
    with ThreadPoolExecutor(_READERS) as readers:
        yield from (one for one in readers.map(scene, uris) if one is not None)
