"""Depth Anything 3 through its package: conventions, loading, refusals.

Random weights test shapes and conventions, not quality: no trained weights are at hand in a test.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.world.clips import render_prompt, world_prompts
from rewards.errors import RewardError
from rewards.geometry.backends import load_backend
from rewards.geometry.depth_anything import build_network, fit_frames, to_reconstruction
from rewards.geometry.depth_anything_weights import INSTALL, find_weights
from rewards.rasterise.zbuffer import backproject

pytest.importorskip("depth_anything_3")
pytestmark = pytest.mark.filterwarnings("ignore")


def seeded_state(architecture: str) -> dict[str, Tensor]:
    """Random weights of an architecture; small, so that depth and poses stay ordinary."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in build_network(architecture).state_dict().items():
        values = 0.02 * torch.randn(tensor.shape, generator=generator)
        state[name] = values + 1 if "norm" in name and name.endswith("weight") else values
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("da3-small")
    save_file({f"model.{k}": v for k, v in seeded_state("da3-small").items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_name": "da3-small", "license": "Apache-2.0"}))
    return path


def clips(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, 18, 32, 3, generator=generator) for _ in range(count)]


def test_a_local_folder_reconstructs_and_clips_share_a_forward(folder: Path) -> None:
    backend = load_backend("depth-anything", model=str(folder), revision=None, device="cpu")
    assert (backend.name, backend.license) == ("depth-anything", "Apache-2.0")
    assert len(backend.revision) == 32
    first, second = clips(2)
    alone = backend.reconstruct(first)
    assert alone.size == (280, 504)
    assert torch.equal(alone.depth_THW, backend.reconstruct(first).depth_THW)
    assert bool((alone.depth_THW > 0).all())
    rotation = alone.w2c_T34[:, :, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(2, 3, 3), atol=1e-5)
    assert alone.intrinsics_T33[0, :2, 2].tolist() == [252.0, 140.0]
    together = backend.reconstruct_many([first, second])  # type: ignore[attr-defined]
    assert torch.allclose(together[0].depth_THW, alone.depth_THW, rtol=1e-4)
    assert torch.allclose(together[0].w2c_T34, alone.w2c_T34, atol=1e-4)
    assert not torch.allclose(together[1].depth_THW, alone.depth_THW, rtol=1e-4)


def test_nothing_is_printed_where_results_go(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_backend("depth-anything", model=str(folder), revision=None, device="cpu").reconstruct(clips(1)[0])
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("number", [0, 3, 8])
def test_true_cameras_in_the_networks_encoding_come_out_as_they_were(number: int) -> None:
    """Ground truth, encoded as the camera decoder would, through the package's own decoding and ours.

    Without its last row and column a picture of the world has its principal point at half its size.
    """
    from addict import Dict
    from depth_anything_3.model.da3 import DepthAnything3Net
    from depth_anything_3.model.utils.transform import extri_intri_to_pose_encoding
    from depth_anything_3.utils.geometry import affine_inverse, as_homogeneous

    clip = render_prompt(world_prompts("test", 10)[number])
    size = 63
    c2w = affine_inverse(as_homogeneous(clip.w2c_T34[None]))[:, :, :3]
    encoding = extri_intri_to_pose_encoding(c2w, clip.intrinsics_T33[None], (size, size))
    decoder = SimpleNamespace(cam_dec=lambda _feature: encoding)
    output = DepthAnything3Net._process_camera_estimation(decoder, [[None, None]], size, size, Dict())
    depth = clip.depth_THW[:, :size, :size]
    output["depth"], output["depth_conf"] = depth[None], torch.ones_like(depth)[None]
    found = to_reconstruction(clip.frames_THW3[:, :size, :size].permute(0, 3, 1, 2), output, 0)
    assert torch.allclose(found.w2c_T34, clip.w2c_T34, atol=1e-5)
    assert torch.allclose(found.intrinsics_T33, clip.intrinsics_T33, atol=1e-3)
    points = backproject(found.depth_THW, found.intrinsics_T33, found.w2c_T34)[0]
    true = backproject(clip.depth_THW, clip.intrinsics_T33, clip.w2c_T34)[0, :size, :size]
    assert (pixels(points, found.w2c_T34[8], found.intrinsics_T33[8])
            - pixels(true, clip.w2c_T34[8], clip.intrinsics_T33[8])).abs().max() < 1e-2  # fmt: skip
    # The same read as c2w, the likeliest mistake, would be far off.
    wrong = pixels(points, c2w[0, 8], found.intrinsics_T33[8])
    assert (wrong - pixels(true, clip.w2c_T34[8], clip.intrinsics_T33[8])).abs().mean() > 1


def pixels(points_HW3: Tensor, w2c_34: Tensor, intrinsics_33: Tensor) -> Tensor:
    seen = (points_HW3 @ w2c_34[:, :3].T + w2c_34[:, 3]) @ intrinsics_33.T
    return seen[..., :2] / seen[..., 2:]


def test_the_default_has_the_tensors_of_the_published_architecture() -> None:
    from depth_anything_3.cfg import create_object, load_config
    from depth_anything_3.registry import MODEL_REGISTRY

    built = build_network("da3-base").state_dict()
    assert {tensor.device.type for tensor in built.values()} == {"meta"}
    assert (len(built), sum(tensor.numel() for tensor in built.values())) == (443, 135_366_791)
    own = create_object(load_config(MODEL_REGISTRY["da3-base"])).state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in built.items()}


@pytest.mark.parametrize(
    ("shape", "size"), [((480, 720), (336, 504)), ((720, 480), (504, 336)), ((64, 64), (504, 504))]
)
def test_frames_keep_their_aspect_ratio(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert tuple(fit_frames(torch.rand(1, *shape, 3)).shape[-2:]) == size
    with pytest.raises(RewardError, match="frames of 4x400 are too narrow"):
        fit_frames(torch.rand(1, 4, 400, 3))


def test_missing_weights_name_the_licence_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("rewards.geometry.depth_anything_weights.cached_file", lambda *_: None)
    says = r"DA3-BASE are not on this machine \(licence: Apache-2.0\); fetch them with: hf download "
    with pytest.raises(RewardError, match=says):
        find_weights(None, None)
    with pytest.raises(RewardError, match=r"DA3-LARGE .*CC-BY-NC-4\.0.* --revision abc"):
        find_weights("depth-anything/DA3-LARGE", "abc")
    with pytest.raises(RewardError, match=r"has no model\.safetensors"):
        find_weights(str(tmp_path), None)


def test_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_name": "da3mono-large"}')
    with pytest.raises(RewardError, match="is a 'da3mono-large', which has no cameras"):
        find_weights(str(tmp_path), None)
    (tmp_path / "config.json").write_text('{"model_name": "da3-base"}')
    with pytest.raises(RewardError, match=r"does not fit its config: .* tensors differ, first backbone"):
        load_backend("depth-anything", model=str(tmp_path), revision=None, device="cpu")
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle in disguise")
    with pytest.raises(RewardError, match="is not a readable safetensors file"):
        load_backend("depth-anything", model=str(tmp_path), revision=None, device="cpu")


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def hidden(name: str, *rest: Any) -> Any:
        return None if name in ("depth_anything_3", "addict") else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(RewardError, match="needs depth_anything_3, addict; install it with: pip install"):
        load_backend("depth-anything", model=None, revision=None, device="cpu")
    assert INSTALL.endswith("--no-deps depth-anything-3")
