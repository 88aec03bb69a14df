from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.sampling.prompts import HeldTexts, PromptItem, read_prompts, world_items
from storage.errors import UserError
from storage.media.pictures import write_image
from storage.tables.ids import content_id, split_of

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def write(folder: Path, *lines: Any) -> Path:
    write_image(folder / "a.png", IMAGE)
    path = folder / "p.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def read(path: Path, image_required: bool = True, limit: int | None = None) -> list[PromptItem]:
    return list(read_prompts(path, image_required=image_required, limit=limit))


def test_every_field_reaches_the_record(tmp_path: Path) -> None:
    line = {
        "text": "a hall",
        "image": "a.png",
        "scene_id": "s1",
        "camera_motion": ["pan"],
        "metadata": {"n": 1},
    }
    (item,) = read(write(tmp_path, line))
    assert np.array_equal(item.image_HW3, IMAGE)
    record = item.record("media/images/x.png")
    assert (record.text, record.scene_id, list(record.camera_motion)) == ("a hall", "s1", ["pan"])
    assert (record.metadata, record.image_uri) == ('{"n":1}', "media/images/x.png")
    assert record.split == split_of("s1")


def test_the_id_is_text_and_pixels_and_nothing_else(tmp_path: Path) -> None:
    one = PromptItem(text="a hall", image_HW3=IMAGE)
    assert one.prompt_id == PromptItem(text="a hall", image_HW3=IMAGE.copy(), scene_id="s").prompt_id
    others = [
        PromptItem(text="a room", image_HW3=IMAGE),
        PromptItem(text="a hall", image_HW3=IMAGE.reshape(6, 4, 3)),
        PromptItem(text="a hall", image_HW3=IMAGE ^ 1),
        PromptItem(text="a hall"),
    ]
    assert len({one.prompt_id, *(other.prompt_id for other in others)}) == 5


def test_prompts_of_one_first_frame_are_one_scene() -> None:
    scenes = {PromptItem(text=text, image_HW3=IMAGE).record("x").scene_id for text in ("pan", "orbit")}
    assert len(scenes) == 1


def test_equal_prompts_come_once_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    line = {"text": "a hall", "image": "a.png"}
    path = write(tmp_path, line, "", line, {"text": "a room", "image": "a.png"})
    assert [item.text for item in read(path)] == ["a hall", "a room"]
    assert [item.text for item in read(path, limit=1)] == ["a hall"]


def test_a_caption_in_other_writings_is_one_prompt(tmp_path: Path) -> None:
    texts = [
        "a café,\nat night",
        "a cafe\u0301,\nat night",
        " a café,\r\nat night ",
        "a cafe\u0301,\rat night\n",
    ]
    path = write(tmp_path, *({"text": text, "image": "a.png"} for text in texts))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (item,) = read(path)
    # The id that a text has which needs no change.
    assert item.prompt_id == content_id("prompt", texts[0], [4, 6, 3], IMAGE.tobytes())


def test_a_prompt_that_a_run_holds_in_another_writing_keeps_its_id() -> None:
    old = [
        PromptItem(text=text, image_HW3=IMAGE) for text in ("a hall ", "a cafe\u0301", "a room", "a room ")
    ]
    held = HeldTexts([(one.prompt_id, one.text) for one in old])

    def found(text: str, image: Any = IMAGE) -> str:
        return held.as_held(PromptItem(text=text, image_HW3=image)).prompt_id

    assert [found(text) for text in ("a hall", "a café", "a room")] == [one.prompt_id for one in old[:3]]
    # Another first frame is another prompt, and a text that it does not hold is a new one.
    for text, image in (("a hall", IMAGE ^ 1), ("a house", IMAGE)):
        assert found(text, image) == PromptItem(text=text, image_HW3=image).prompt_id


def test_a_text_to_video_model_needs_no_image(tmp_path: Path) -> None:
    (item,) = read(write(tmp_path, {"text": "a hall"}), image_required=False)
    assert item.record(None).image_uri is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a", "image": "a.png"}', '{"text": '], r"p\.jsonl:2: is malformed JSON .*: write one"),
        (["[1]"], r"p\.jsonl:1: is a JSON list, no object: write one object a line"),
        (
            [{"text": "a", "image": "a.png", "txt": "b"}],
            r"p\.jsonl:1: unknown field 'txt': the fields are text",
        ),
        ([{"image": "a.png"}], r"p\.jsonl:1: field 'text' is missing or empty: say"),
        ([{"text": " ", "image": "a.png"}], r"p\.jsonl:1: field 'text' is missing or empty"),
        ([{"text": 3}], r"p\.jsonl:1: field 'text' must be a str, got int"),
        ([{"text": "a", "camera_motion": [1]}], r"'camera_motion' must be a list of strings"),
        ([{"text": "a", "metadata": []}], r"'metadata' must be a dict, got list"),
        (
            ['{"text": "a", "metadata": {"x": NaN}}'],
            r"p\.jsonl:1: metadata is no plain JSON .*: write a JSON object",
        ),
        ([{"text": "a", "scene_id": ""}], r"'scene_id' is empty"),
        ([{"text": "a"}], r"p\.jsonl:1: no first frame, which an image-to-video model needs: add \"image\""),
        ([{"text": "a", "image": "b.png"}], r"p\.jsonl:1: image .*b\.png does not exist: paths are relative"),
        ([{"text": "a", "image": "p.jsonl"}], r"p\.jsonl:1: .*p\.jsonl cannot be read as an image"),
        ([""], r"p\.jsonl holds no prompt: write one JSON object a line"),
        ([r'{"text": "\ud800", "image": "a.png"}'], r"p\.jsonl:1: field 'text' is not UTF-8 text: "),
        ([r'{"text": "a\u0000b", "image": "a.png"}'], r"p\.jsonl:1: field 'text' holds a NUL byte"),
        ([r'{"text": "a", "scene_id": "\udfff"}'], r"p\.jsonl:1: field 'scene_id' is not UTF-8 text"),
        ([r'{"text": "a", "image": "\ud800.png"}'], r"p\.jsonl:1: field 'image' is not UTF-8 text"),
        ([r'{"text": "a", "camera_motion": ["\u0000"]}'], r"p\.jsonl:1: field 'camera_motion' holds a NUL"),
        ([r'{"text": "a", "metadata": {"a": "\ud800"}}'], r"p\.jsonl:1: metadata is not UTF-8 text"),
        (['{"text": "a", "text": "b"}'], r"p\.jsonl:1: has 'text' twice"),
        ([{"text": "x" * 20_001}], r"p\.jsonl:1: field 'text' has 20001 characters, at most 20000"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, *lines))


def test_a_missing_and_a_binary_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl does not exist: check `prompts`"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b\.jsonl is UTF-16 text: save it as UTF-8"):
        read(tmp_path / "b.jsonl")


def test_world_prompts_carry_what_renders_their_true_clip() -> None:
    import torch

    from pipeline.world.clips import WorldPrompt, render_prompt

    first, second = world_items("val", 2)
    assert {item.record("x").split for item in (first, second)} == {"val"}
    clip = render_prompt(WorldPrompt(text=first.text, **first.metadata["world"]))
    shown = (clip.frames_THW3[0] * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(first.image_HW3, shown)
    assert first.metadata["world"]["move"] in first.camera_motion


def test_an_unknown_split_of_the_world_is_named() -> None:
    with pytest.raises(
        UserError, match="split 'dev' does not exist in the world: choose one of train, val, test"
    ):
        next(world_items("dev", 1))
