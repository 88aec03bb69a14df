"""The renderer against closed forms and against itself: depth, projection, flow, determinism."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.world.cameras import FRAMES, INTRINSICS, MOVES, camera_path
from pipeline.world.motion import flow_to_first, pixel_grid, sample_at
from pipeline.world.render import Clip, render
from pipeline.world.scenes import Scene, make_scene


def warp_first(frames_THW3: torch.Tensor, flow_THW2: torch.Tensor) -> torch.Tensor:
    """Frame 0 pulled along a backward flow, as a motion-compensated codec shows it."""
    count, height, width = flow_THW2.shape[:3]
    first = frames_THW3[:1].permute(0, 3, 1, 2).expand(count, 3, height, width)
    return sample_at(first, pixel_grid(height, width) + flow_THW2).permute(0, 2, 3, 1)


def _wall_room() -> Scene:
    """One closed room, 4 x 4 x 6 m, camera at its centre looking straight at the far wall 3 m away."""
    textures = torch.linspace(0.1, 0.9, 32).repeat(6, 3, 32, 1)
    return Scene(
        scene_id="wall",
        low_B3=torch.tensor([[-2.0, -2.0, -3.0]]),
        high_B3=torch.tensor([[2.0, 2.0, 3.0]]),
        textures_FCSS=textures,
        camera_3=torch.zeros(3),
        yaw=0.0,
        pitch=0.0,
        wall_colour="red",
        wall_pattern="plain",
    )


def test_depth_of_a_fronto_parallel_wall_is_constant_and_colour_is_the_texture() -> None:
    clip = render(_wall_room(), torch.eye(4)[None, :3], 64)
    wall = clip.depth_THW[0]
    assert torch.allclose(wall, torch.full_like(wall, 3.0), atol=1e-5)
    u = 40
    x = 3.0 * (u - 31.5) / (64 / 2 / math.tan(math.pi / 6))
    texel = (x + 2) / 4 * 32 - 0.5
    expected = 0.1 + 0.8 * texel / 31
    assert clip.frames_THW3[0, 32, u, 0].item() == pytest.approx(expected, abs=2e-3)


def test_depth_of_the_side_wall_follows_from_the_ray() -> None:
    scene = _wall_room()
    w2c = torch.tensor(
        [[[0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]]
    )  # looks along +x
    depth = render(scene, w2c, 33).depth_THW[0]
    assert depth[16, 16].item() == pytest.approx(2.0, abs=1e-5)
    turned = math.radians(30)
    yaw = torch.tensor([[math.cos(turned), 0.0, -math.sin(turned), 0.0], [0.0, 1.0, 0.0, 0.0]])
    yaw = torch.cat([yaw, torch.tensor([[math.sin(turned), 0.0, math.cos(turned), 0.0]])])[None]
    # The centre ray leaves x = 2 after 2 / sin 30 = 4 m, but meets the wall z = 3 before: 3 / cos 30.
    assert render(scene, yaw, 33).depth_THW[0, 16, 16].item() == pytest.approx(3 / math.cos(turned), abs=1e-5)


@pytest.mark.parametrize("move", [move.name for move in MOVES])
def test_visible_points_keep_their_colour_and_the_flow_is_visible(move: str) -> None:
    scene = make_scene("world-000007")
    clip = render(scene, camera_path(scene, move, 3))
    flow, visible = flow_to_first(clip)
    error = (warp_first(clip.frames_THW3, flow) - clip.frames_THW3).abs().mean(-1)
    assert flow[0].abs().max() < 1e-3
    assert visible[-1].float().mean() > 0.5
    assert error[-1][visible[-1]].mean() < 0.03
    assert (clip.frames_THW3[-1] - clip.frames_THW3[0]).abs().mean() > 2 * error[-1][visible[-1]].mean()
    assert 2.0 < flow[-1].norm(dim=-1).median() < 14.0


def test_projected_points_land_on_equal_depth() -> None:
    scene = make_scene("world-000011")
    clip = render(scene, camera_path(scene, "orbit_left", 0))
    flow, visible = flow_to_first(clip)
    k = INTRINSICS(64)
    grid = pixel_grid(64, 64)
    rays = torch.cat([grid, torch.ones(64, 64, 1)], -1) @ torch.linalg.inv(k).T
    world = (rays * clip.depth_THW[-1, ..., None] - clip.w2c_T34[-1, :, 3]) @ clip.w2c_T34[-1, :, :3]
    z_in_first = (world @ clip.w2c_T34[0, :, :3].T + clip.w2c_T34[0, :, 3])[..., 2]
    stored = sample_at(clip.depth_THW[:1, None], (grid + flow[-1])[None])[0, 0]
    relative = ((stored - z_in_first).abs() / z_in_first)[visible[-1]]
    assert relative.median() < 2e-3


def test_every_camera_stays_inside_the_room_and_outside_the_boxes() -> None:
    for number in range(20):
        scene = make_scene(f"world-{number:06d}")
        for move in MOVES:
            w2c = camera_path(scene, move.name, number)
            assert w2c.shape == (FRAMES, 3, 4)
            centres = -(w2c[:, :, :3].transpose(1, 2) @ w2c[:, :, 3:])[..., 0]
            margin = 0.2
            assert ((centres > scene.low_B3[0] + margin) & (centres < scene.high_B3[0] - margin)).all()
            inside = (centres[:, None] > scene.low_B3[1:] - margin) & (
                centres[:, None] < scene.high_B3[1:] + margin
            )
            assert not inside.all(-1).any()


def test_rotations_are_proper_and_all_moves_start_alike() -> None:
    scene = make_scene("world-000003")
    starts = []
    for move in MOVES:
        rotation = camera_path(scene, move.name, 5)[:, :, :3]
        assert torch.allclose(
            rotation @ rotation.transpose(1, 2), torch.eye(3).expand(FRAMES, 3, 3), atol=1e-5
        )
        assert torch.allclose(torch.linalg.det(rotation), torch.ones(FRAMES), atol=1e-5)
        starts.append(camera_path(scene, move.name, 5)[0])
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_directions_mean_what_their_names_say() -> None:
    scene = make_scene("world-000003")
    flows = {}
    for move in MOVES:
        clip = render(scene, camera_path(scene, move.name, 5))
        flows[move.name] = flow_to_first(clip)[0][-1].mean((0, 1))
    # Backward flow points from last frame to first: a camera that turns or goes left sends things right.
    assert flows["pan_left"][0] < 0 < flows["pan_right"][0]
    assert flows["slide_left"][0] < 0 < flows["slide_right"][0]
    assert flows["tilt_up"][1] < 0 < flows["tilt_down"][1]


def test_unknown_move_and_wrong_shapes_are_refused_with_words() -> None:
    scene = make_scene("world-000003")
    with pytest.raises(ValueError, match=r"move: must be one of push_forward"):
        camera_path(scene, "fly", 0)
    clip = render(scene, camera_path(scene, "tilt_up", 0))
    with pytest.raises(ValueError, match=r"Clip.w2c_T34: must be float32"):
        Clip(
            frames_THW3=clip.frames_THW3,
            depth_THW=clip.depth_THW,
            w2c_T34=clip.w2c_T34[:3],
            intrinsics_T33=clip.intrinsics_T33,
        )
