"""The matching cue, the pose conventions and the shipped weights of the world's geometry network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.bench.world.networks import geometry_figures
from pipeline.world.corruptions import warp_field
from pipeline.world.training.bank import ClipBank, coarse_flow, render_bank, rewarp
from pipeline.world.training.geometry import mirror, relative_target, rotation_angle
from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryBackend
from rewards.geometry.world.backend import load_backend
from rewards.geometry.world.matching import match_to_first
from rewards.geometry.world.network import (
    WorldGeometry,
    WorldGeometryConfig,
    pose_to_intrinsics,
    pose_to_w2c,
)

SHIPPED = Path(__file__).parents[2] / "pipeline" / "world" / "checkpoints" / "geometry"


@pytest.fixture(scope="module")
def bank() -> ClipBank:
    return render_bank("test", 20, start=100)


def test_matching_recovers_a_known_smooth_motion(bank: ClipBank) -> None:
    first = bank.frames_NTHW3[:4, 0].float() / 255
    field = torch.stack([warp_field(9, 64, 3.0, seed) for seed in range(4)])
    flow = torch.stack([coarse_flow(one) for one in field])
    frames = rewarp(first, flow)
    error = (match_to_first(frames.permute(0, 1, 4, 2, 3)).flow_BT2hw - flow).norm(dim=2)
    assert error[:, 0].max() == 0
    # A field this rough is smoothed a little, and its ends leave the picture: most of it must be found.
    assert error[:, 8].median() < 0.3 * flow[:, 8].norm(dim=1).median()


def test_matching_agrees_with_the_true_flow_of_rendered_clips(bank: ClipBank) -> None:
    frames = (bank.frames_NTHW3.float() / 255).permute(0, 1, 4, 2, 3)
    error = (match_to_first(frames).flow_BT2hw - bank.flow_NT2hw.float()).norm(dim=2)
    assert error[:, 1].median() < 0.25
    assert error[:, 8].median() < 0.7


def test_pose_encoding_is_translation_quaternion_and_view() -> None:
    half = torch.tensor(0.3)
    encoding = torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, torch.pi / 3, torch.pi / 2]])
    encoding[0, 4], encoding[0, 6] = half.sin(), half.cos()
    w2c = pose_to_w2c(encoding)[0]
    angle = 2 * half
    expected = torch.tensor(
        [[angle.cos(), 0, angle.sin(), 1.0], [0, 1, 0, 2.0], [-angle.sin(), 0, angle.cos(), 3.0]]
    )
    assert torch.allclose(w2c, expected, atol=1e-6)
    intrinsics = pose_to_intrinsics(encoding, 48, 64)[0]
    assert intrinsics[0, 0].item() == pytest.approx(32.0, rel=1e-5)
    assert intrinsics[1, 1].item() == pytest.approx(24 * 3**0.5, rel=1e-5)
    assert intrinsics[0, 2] == 31.5
    assert intrinsics[1, 2] == 23.5


def test_frame_zero_is_the_world_frame_whatever_the_weights() -> None:
    torch.manual_seed(0)
    network = WorldGeometry(WorldGeometryConfig(width=16, heads=2, layers=1)).eval()
    prediction = network(torch.rand(1, 3, 3, 64, 64))
    w2c = pose_to_w2c(prediction.pose_encoding_BT9)
    assert torch.allclose(w2c[0, 0], torch.eye(4)[:3], atol=1e-6)
    assert prediction.depth_BTHW.shape == prediction.confidence_BTHW.shape == (1, 3, 64, 64)
    assert (prediction.depth_BTHW > 0).all()
    assert (prediction.confidence_BTHW >= 1).all()


def test_target_of_a_mirrored_clip_is_the_mirrored_geometry(bank: ClipBank) -> None:
    target = relative_target(bank)
    frames = bank.frames_NTHW3.float()
    _, mirrored = mirror(frames, target)
    rotation = mirrored.w2c_BT34[..., :3]
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(rotation.shape[:2]), atol=1e-4)
    # A point seen at x in the clip is seen at -x in the mirror.
    point = torch.tensor([0.3, -0.2, 1.5, 1.0])
    seen = target.w2c_BT34 @ point
    reflected = mirrored.w2c_BT34 @ (point * torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    assert torch.allclose(reflected, seen * torch.tensor([-1.0, 1.0, 1.0]), atol=1e-5)


def test_rotation_angle_is_exact_for_small_and_large_angles() -> None:
    for degrees in (0.01, 1.0, 90.0):
        angle = torch.tensor(degrees).deg2rad()
        encoding = torch.zeros(1, 9)
        encoding[0, 3], encoding[0, 6] = (angle / 2).sin(), (angle / 2).cos()
        found = rotation_angle(pose_to_w2c(encoding)[0, :, :3], torch.eye(3)).rad2deg()
        assert found.item() == pytest.approx(degrees, rel=2e-2)


@pytest.mark.parametrize("rewarped", [False, True])
def test_shipped_weights_reach_the_held_out_targets(bank: ClipBank, rewarped: bool) -> None:
    figures = geometry_figures(WorldGeometry.from_pretrained(SHIPPED), bank, rewarped=rewarped)
    assert figures["abs_rel"] <= 0.15
    assert figures["rotation_degrees"] <= 1.0
    assert figures["rotation_degrees"] < 0.35 * figures["repeat_rotation_degrees"]
    assert figures["translation"] < 0.5 * figures["repeat_translation"]


def test_backend_follows_the_protocol_and_batches_alike(bank: ClipBank) -> None:
    backend = load_backend(model=None, revision=None, device="cpu")
    assert isinstance(backend, GeometryBackend)
    clips = [bank.frames_NTHW3[index].float() / 255 for index in range(2)]
    together, alone = backend.reconstruct_many(clips), backend.reconstruct(clips[1])
    assert torch.allclose(together[1].depth_THW, alone.depth_THW, rtol=1e-3, atol=1e-4)
    assert alone.depth_THW.shape == (9, 64, 64)
    large = torch.nn.functional.interpolate(clips[1].permute(0, 3, 1, 2), scale_factor=2).permute(0, 2, 3, 1)
    assert torch.allclose(backend.reconstruct(large).depth_THW, alone.depth_THW, rtol=0.2, atol=0.1)


def test_bad_input_of_the_backend_is_refused_with_words(tmp_path: Path) -> None:
    with pytest.raises(
        RewardError, match=r"geometry weights in .* cannot be read .* run `gpa pretrain-world`"
    ):
        load_backend(model=str(tmp_path), revision=None, device="cpu")
    with pytest.raises(RewardError, match=r"are revision [0-9a-f]{12}, not beef"):
        load_backend(model=None, revision="beef", device="cpu")
    backend = load_backend(model=None, revision=None, device="cpu")
    with pytest.raises(RewardError, match=r"takes 2 to 16 frames, got 17; pass --frames 16"):
        backend.reconstruct(torch.rand(17, 64, 64, 3))
    with pytest.raises(ValueError, match=r"WorldGeometryConfig.width: must be divisible by heads 4, got 130"):
        WorldGeometryConfig(width=130)


def test_a_truncated_weights_file_is_refused(tmp_path: Path) -> None:
    WorldGeometry(WorldGeometryConfig(width=16, heads=2, layers=1)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RewardError, match=r"cannot be read"):
        WorldGeometry.from_pretrained(tmp_path)
