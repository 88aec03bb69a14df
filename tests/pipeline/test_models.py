from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.models import load_pipeline, resolve_adapter, resolve_model
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings
from storage.errors import UserError
from tests.pipeline.tiny import SAMPLER, build


def test_a_folder_is_named_by_its_last_part_and_its_content(tiny_model: Path, tmp_path: Path) -> None:
    one = resolve_model(str(tiny_model))
    assert (one.name, one.family) == ("tiny", "CogVideoXImageToVideoPipeline")
    moved = shutil.copytree(tiny_model, tmp_path / "tiny")
    assert resolve_model(str(moved)).revision == one.revision
    (moved / "README.md").write_text("notes")
    assert resolve_model(str(moved)).revision == one.revision
    weights = next((moved / "transformer").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve_model(str(moved)).revision != one.revision


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("worlds", None, "model 'worlds' is no folder here and no Hub id .*use 'world' or one of these"),
        ("/nowhere/model", None, "is no folder here and no Hub id"),
        (".", "abc", "`revision` abc is for Hub models; '.' is a folder"),
    ],
)
def test_bad_names_are_explained(name: str, revision: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_model(name, revision)


def test_folders_that_are_no_model_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no weights"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no model_index\.json: give a complete folder"):
        resolve_model(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"model_index\.json cannot be read"):
        resolve_model(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "OtherPipeline"}')
    with pytest.raises(
        UserError, match=r"is a OtherPipeline, which has no sampler here; families: CogVideoX"
    ):
        make_sampler(resolve_model(str(tmp_path)), SamplerSettings(**SAMPLER))


def test_the_hub_offline_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"run `hf download nobody/nothing --revision v1`, or give a local folder"
    ):
        resolve_model("nobody/nothing", "v1")


def test_truncated_weights_are_explained(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "cut")
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    sampler = make_sampler(resolve_model(str(folder)), SamplerSettings(**SAMPLER))
    with pytest.raises(UserError, match=r"model 'cut' in .* does not load: .*get its files again"):
        sampler.setup()


def test_a_component_of_this_project_loads_by_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import CogVideoXImageToVideoPipeline

    from pipeline.world.codec import MotionCodec

    model = resolve_model(str(build(tmp_path / "own", vae_model=MotionCodec())))
    # As in a fresh process, where nothing has imported the codec.
    monkeypatch.delitem(sys.modules, "pipeline.world.codec")
    pipe = load_pipeline(model, "fp32", "cpu", CogVideoXImageToVideoPipeline)
    assert type(pipe.vae).__name__ == "MotionCodec"


def test_adapters_of_another_base_and_damaged_ones_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = resolve_model(str(tiny_model))
    with pytest.raises(UserError, match=r"has no pytorch_lora_weights\.safetensors: give the folder"):
        resolve_adapter(tmp_path, model)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"has no adapter\.json"):
        resolve_adapter(tmp_path, model)
    note = {"base_model": "tiny", "base_revision": "other", "sha256": "0"}
    (tmp_path / "adapter.json").write_text(json.dumps(note))
    with pytest.raises(UserError, match=r"was trained on tiny at other, not on tiny at .*its own base model"):
        resolve_adapter(tmp_path, model)
    (tmp_path / "adapter.json").write_text(json.dumps({**note, "base_revision": model.revision}))
    with pytest.raises(UserError, match=r"is not the file that was exported: train it again"):
        resolve_adapter(tmp_path, model)
