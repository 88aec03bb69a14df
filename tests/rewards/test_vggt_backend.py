from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rewards.errors import RewardError
from rewards.geometry.backends import describe_backend, load_backend
from rewards.geometry.reconstruction import (
    BatchedGeometryBackend,
    GeometryBackend,
    GeometryInfo,
    reconstruct_many,
)
from rewards.geometry.vggt.backend import resize_frames
from rewards.geometry.vggt.heads import decode_cameras
from rewards.geometry.vggt.model import VGGT
from rewards.geometry.vggt.weights import _CONFIG, _WEIGHTS
from rewards.table import REWARDS, load_reward, reward_version
from tests.rewards.vggt_seed import SMALL, seed_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = VGGT(SMALL)
    seed_weights(model)
    made = tmp_path / "vggt"
    made.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, made / _WEIGHTS)
    about = dataclasses.asdict(model.config) | {"license": "made for a test"}
    (made / _CONFIG).write_text(json.dumps(about))
    return made


def load(folder: Path | str) -> GeometryBackend:
    return load_backend("vggt", model=str(folder), revision=None, device="cpu")


@settings(max_examples=30, deadline=None)
@given(
    angle=st.floats(0.01, 3.1),
    axis=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: math.hypot(*v) > 0.1),
    length=st.floats(0.1, 5),
)
def test_quaternions_turn_by_their_angle_about_their_axis(
    angle: float, axis: tuple[float, float, float], length: float
) -> None:
    unit = torch.tensor(axis, dtype=torch.float64) / math.hypot(*axis)
    quaternion = length * torch.cat([unit * math.sin(angle / 2), torch.tensor([math.cos(angle / 2)])])
    pose = torch.cat([torch.tensor([1.0, 2.0, 3.0]), quaternion, torch.tensor([0.8, 1.0])])[None]
    w2c, _ = decode_cameras(pose, 28, 42)
    x, y, z = unit.tolist()
    generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    # The exponential itself is 2e-8 off at some angles.
    assert torch.allclose(w2c[0, :, :3], torch.linalg.matrix_exp(angle * generator), atol=1e-6)
    assert w2c[0, :, 3].tolist() == [1.0, 2.0, 3.0]


def test_fields_of_view_become_focal_lengths_in_pixels() -> None:
    pose = torch.tensor([[0, 0, 0, 0, 0, 0, 1, math.radians(60), math.radians(90)]])
    _, intrinsics = decode_cameras(pose, 28, 42)
    focal = [21.0, 14 / math.tan(math.radians(30))]
    assert intrinsics[0].diagonal()[:2].tolist() == pytest.approx(focal, rel=1e-5)
    assert intrinsics[0, :2, 2].tolist() == [21.0, 14.0]


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 720), (350, 518)), ((768, 1360), (294, 518)), ((720, 480), (784, 518))]
)
def test_resizing_keeps_the_aspect_ratio(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert tuple(resize_frames(torch.rand(1, *size, 3), 518, 14).shape) == (1, 3, *expected)


def test_a_local_folder_serves_a_reward_end_to_end(folder: Path) -> None:
    backend = load(folder)
    assert isinstance(backend, BatchedGeometryBackend)
    assert (backend.name, backend.model, backend.license) == ("vggt", folder.name, "made for a test")
    assert len(backend.revision) == 32
    clips = [torch.rand(4, 48, 72, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    first, second = backend.reconstruct_many(clips)
    assert first.size == (42, 56)
    assert torch.allclose(backend.reconstruct(clips[1]).depth_THW, second.depth_THW, atol=1e-5)
    result = load_reward("reprojection", geometry=backend).score(clips[0])
    assert (result.value is None) != (result.reason is None)
    assert len(result.w2c) == 48


def test_the_revision_is_the_content(folder: Path) -> None:
    before = load(folder).revision
    assert load(folder).revision == before
    state = load_file(folder / "model.safetensors")
    state["camera_head.trunk_norm.bias"] += 1
    save_file(state, folder / "model.safetensors")
    assert load(folder).revision != before


def test_a_published_config_is_read(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "enable_camera": True, "enable_track": True}))
    assert load(folder).name == "vggt"


def test_weights_that_are_not_here_name_the_command_and_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(
        RewardError, match=r"licence: CC-BY-NC-4\.0\); fetch them with: hf download facebook/VGGT-1B"
    ):
        load_backend("vggt", model=None, revision=None, device="cpu")
    with pytest.raises(RewardError, match="--revision abc"):
        load_backend("vggt", model="facebook/VGGT-1B", revision="abc", device="cpu")


def test_a_folder_without_weights_and_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"has no model\.safetensors"):
        load(tmp_path)
    with pytest.raises(RewardError, match="neither a folder nor a Hub id"):
        load("no/such/folder/here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"hidden_size": 3}', r"fields of another kind of model \(hidden_size\)"),
        ('{"img_size": 15}', "img_size must be a multiple"),
        ("{}", r"does not fit its config: \d+ tensors differ"),
    ],
)
def test_a_wrong_config_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(RewardError, match=message):
        load(folder)


def test_truncated_weights_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RewardError, match="is not a readable safetensors file"):
        load(folder)


def test_the_gated_variant_says_how_to_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(RewardError, match=r"Commercial .*gated.* accept its terms .*`hf auth login`, then"):
        describe_backend("vggt", model="facebook/VGGT-1B-Commercial", revision=None)


def test_a_description_is_what_would_be_loaded_and_needs_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_backend("vggt", model=str(folder), revision=None, device="cpu")
    monkeypatch.setattr(
        "rewards.geometry.vggt.backend.load_vggt", lambda *_: pytest.fail("a network was built")
    )
    info = describe_backend("vggt", model=str(folder), revision=None)
    assert dataclasses.astuple(info) == (loaded.name, loaded.model, loaded.revision, loaded.license)
    for name in ("reprojection", "combined", "random"):
        options = REWARDS[name].options()
        built = load_reward(name, geometry=loaded, options=options)
        assert reward_version(name, options, info) == built.version


@pytest.mark.parametrize(
    ("license_name", "restricted"),
    [("CC-BY-NC-4.0", True), ("CC BY-NC 4.0", True), ("Apache-2.0", False), ("unknown", False)],
)
def test_non_commercial_licences_are_known(license_name: str, restricted: bool) -> None:
    info = GeometryInfo(name="vggt", model="m", revision="r", license=license_name)
    assert info.is_noncommercial is restricted


def test_only_the_heads_that_are_asked_for_run_and_only_their_layers_are_kept(folder: Path) -> None:
    backend = load_backend("vggt", model=str(folder), revision=None, device="cpu")
    network = backend._network  # type: ignore[attr-defined]
    kept: list[set[int]] = []
    ran: list[str] = []
    network.aggregator.register_forward_hook(lambda *call: kept.append(set(call[2])))
    for name in ("camera_head", "depth_head", "point_head"):
        getattr(network, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    backend.reconstruct(torch.rand(2, 20, 30, 3))
    assert ran == ["camera_head", "depth_head"]
    config = network.config
    assert kept == [{*config.dpt_layers, config.depth - 1}]


def test_clips_of_one_shape_share_a_forward(folder: Path) -> None:
    backend = load_backend("vggt", model=str(folder), revision=None, device="cpu")
    batches: list[int] = []
    backend._network.aggregator.register_forward_hook(  # type: ignore[attr-defined]
        lambda *call: batches.append(call[1][0].shape[0])
    )
    clips = [torch.rand(2, 20, 30, 3) for _ in range(3)]
    together = reconstruct_many(backend, clips)
    assert batches == [3]
    for clip, one in zip(clips, together, strict=True):
        alone = backend.reconstruct(clip)
        assert torch.allclose(one.depth_THW, alone.depth_THW, rtol=1e-3)
        assert torch.allclose(one.w2c_T34, alone.w2c_T34, atol=1e-3)
