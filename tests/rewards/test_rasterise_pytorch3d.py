"""Two rasterisers must draw the same. Without PyTorch3D a loop over points stands in for the library."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from torch import Tensor

from rewards.errors import RewardError
from rewards.geometry.reconstruction import Reconstruction
from rewards.options import ReprojectionOptions
from rewards.rasterise import pytorch3d as rasterise_pytorch3d
from rewards.rasterise import rasterisers
from rewards.rasterise import zbuffer as rasterise
from rewards.rasterise.pytorch3d import find_build
from rewards.rasterise.rasterisers import Choice, choose_rasteriser, find_rasteriser
from rewards.reprojection import reprojection_error
from rewards.versions import options_version

SIDE = rasterise_pytorch3d._SIDE
SIZES = [(10, 14), (1, 1), (8, 8), (17, 5)]


def scene(seed: int, count: int, views: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points on a coarse grid, so that equal depths in one pixel are frequent, before and behind cameras."""
    generator = torch.Generator().manual_seed(seed)
    points_N3 = (torch.randn(count, 3, generator=generator) * 4).round() / 4 + torch.tensor([0, 0, 2.0])
    w2c_V34 = torch.eye(4)[:3].repeat(views, 1, 1)
    w2c_V34[1:, :, 3] = 0.3 * torch.randn(views - 1, 3, generator=generator)
    intrinsics_V33 = torch.tensor([[9, 0, 6.5], [0, 8, 4.5], [0, 0, 1]]).repeat(views, 1, 1)
    keep_VN = torch.rand(views, count, generator=generator) < 0.8
    return points_N3, torch.rand(count, 3, generator=generator), intrinsics_V33, w2c_V34, keep_VN


def stand_in(ndc: Sequence[Tensor]) -> Tensor:
    """What the library's naive path does, written from its documentation: +x left, +y up, centres at +0.5."""
    place_CSS = torch.full((len(ndc), SIDE, SIDE), -1)
    offset = 0
    for square, cloud in enumerate(ndc):
        depth_SS = torch.full((SIDE, SIDE), torch.inf)
        for number, (x, y, z) in enumerate(cloud.tolist()):
            column, row = (1 - x) * SIDE / 2 - 0.5, (1 - y) * SIDE / 2 - 0.5
            assert column == int(column)
            assert row == int(row)
            if 0 <= z < depth_SS[int(row), int(column)]:
                depth_SS[int(row), int(column)] = z
                place_CSS[square, int(row), int(column)] = offset + number
        offset += len(cloud)
    return place_CSS


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterise_pytorch3d, "require_pytorch3d", lambda: None)
    monkeypatch.setattr(rasterise_pytorch3d, "rasterise_squares", stand_in)


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch3d"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch3d", None)


@pytest.fixture
def library() -> None:
    """PyTorch3D itself: skipped only where it is not installed, since one that is broken must be seen."""
    if find_build() is None:
        pytest.skip("PyTorch3D is not installed: make installs it, or the extra [pytorch3d]")
    rasterise_pytorch3d.require_pytorch3d()


@pytest.fixture(autouse=True)
def no_stand_in_stays(tmp_path: Path) -> Iterator[None]:
    """What a test imported of a stand-in is forgotten, so that the next one finds the library itself."""
    yield
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "pytorch3d" and str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


def package(folder: Path, error: str, compiled: bytes = b"") -> None:
    """A package pytorch3d that raises an error when it is imported."""
    points = folder / "pytorch3d" / "renderer" / "points"
    points.mkdir(parents=True)
    for part in (points, points.parent, points.parent.parent):
        (part / "__init__.py").touch()
    (points / "rasterize_points.py").write_text(f"raise {error}\n")
    (folder / "pytorch3d" / "_C.cpython-311-x86_64-linux-gnu.so").write_bytes(compiled)


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if none had been imported; what a test puts on the path is found first."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch3d"]:
        monkeypatch.delitem(sys.modules, name)


def assert_same(height: int, width: int, *cloud: Tensor) -> float:
    expected = rasterise.splat_views(*cloud[:4], height, width, *cloud[4:])
    got = rasterise_pytorch3d.splat_views(*cloud[:4], height, width, *cloud[4:])
    for name, one, other in zip(("image", "depth", "index"), expected, got, strict=True):
        assert torch.equal(one, other), name
    return float((got[2] >= 0).float().mean())


def fitting() -> str:
    return "easypytorch3d 0.7.9.post1 with torch 2.12.1"


@pytest.mark.usefixtures("hidden")
def test_a_missing_library_is_told_when_options_are_built() -> None:
    message = re.escape(
        f"rasteriser 'pytorch3d': PyTorch3D is not installed beside torch {torch.__version__}; the pair that "
        f"works is {fitting()}: install that pair (make, or the extra [pytorch3d]), build PyTorch3D for this "
        f"torch as {rasterise_pytorch3d.INSTALL} says, or use --rasteriser torch"
    )
    with pytest.raises(RewardError, match=message):
        ReprojectionOptions(rasteriser="pytorch3d")
    with pytest.raises(RewardError, match=message):
        rasterise_pytorch3d.splat_views(*scene(0, 5)[:4], 4, 4)
    assert ReprojectionOptions(rasteriser="torch").rasteriser == "torch"
    assert find_build() is None


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "ImportError('_C.so: undefined symbol: _ZN3c106detail\\nmore')",
            "_C.so: undefined symbol: _ZN3c106detail",
        ),
        ("OSError('libcudart.so.13: cannot open')", "libcudart.so.13: cannot open"),
        ("ImportError()", "ImportError"),
    ],
)
def test_a_library_that_does_not_fit_torch_is_told_in_one_line_with_the_pair_that_does(
    error: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, error)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch, "__version__", "2.14.0+cu130")
    versions = {"easypytorch3d": "0.7.9.post1"}
    monkeypatch.setattr(rasterise_pytorch3d, "_version", versions.get)
    with pytest.raises(RewardError) as raised:
        find_rasteriser("pytorch3d")
    assert str(raised.value) == (
        "rasteriser 'pytorch3d': easypytorch3d 0.7.9.post1 cannot be imported under torch 2.14.0+cu130 "
        f"({reason}); the pair that works is {fitting()}: {rasterise_pytorch3d.REMEDY}"
    )
    assert "\n" not in str(raised.value)


def test_the_pair_that_works_is_the_one_that_make_installs() -> None:
    root = Path(__file__).parents[2]
    pinned = dict(
        line.split("==")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    assert {name: pinned[name] for name in rasterise_pytorch3d.FITTING} == rasterise_pytorch3d.FITTING
    version, torch_version = rasterise_pytorch3d.FITTING.values()
    assert f"easypytorch3d=={version} \\" in (root / "requirements-pytorch3d.txt").read_text().splitlines()
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wheel, *libraries = map(Requirement, extras["pytorch3d"])
    assert str(wheel) == f"easypytorch3d=={version}"
    assert torch_version in next(one.specifier for one in libraries if one.name == "torch")


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize(
    ("compiled", "cuda"),
    [
        (b"..RasterizePointsNaiveCpu..Not compiled with GPU support..", None),
        (b"..RasterizePointsNaiveCuda..libcudart.so.13\0libtorch", "13"),
        (b"..RasterizePointsNaiveCuda..", "of unknown version"),
        (b"", None),
    ],
)
def test_a_build_is_known_without_an_import(
    compiled: bytes, cuda: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "AssertionError('imported')", compiled)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(rasterise_pytorch3d, "_version", {"pytorch3d": "0.7.9"}.get)
    build = find_build()
    assert build is not None
    assert (build.distribution, build.cuda) == ("pytorch3d 0.7.9", cuda)
    monkeypatch.setattr(rasterise_pytorch3d, "_version", lambda _: None)
    assert str(find_build()).startswith(f"pytorch3d of no distribution at {tmp_path / 'pytorch3d'}, ")


@pytest.mark.usefixtures("library")
def test_what_the_file_says_of_cuda_is_what_the_compiled_part_says_itself() -> None:
    """Among the libraries that it loads is CUDA's runtime exactly in a build with CUDA."""
    import pytorch3d._C

    build = find_build()
    assert build is not None
    with Path(pytorch3d._C.__file__).open("rb") as file:
        linked = b"libcudart.so" in file.read(1 << 20)
    assert (build.cuda is not None) == linked


def test_a_rasteriser_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="rasteriser must be one of auto, torch, pytorch3d, got 'opengl'"):
        ReprojectionOptions(rasteriser="opengl")
    with pytest.raises(
        RewardError, match="rasteriser 'opengl' does not exist; choose one of: torch, pytorch3d"
    ):
        find_rasteriser("opengl")


def test_auto_has_the_version_of_the_built_in_one_whatever_it_draws_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auto, built_in = (asdict(ReprojectionOptions(rasteriser=name)) for name in ("auto", "torch"))
    assert options_version("1", auto, None) == options_version("1", built_in, None)
    assert find_rasteriser("torch") is find_rasteriser("auto") is rasterise.splat_views
    monkeypatch.setitem(rasterisers.RASTERISERS, "quick", lambda: rasterise_pytorch3d.splat_views)
    monkeypatch.setitem(rasterisers._FASTER, "xpu", Choice(name="quick", reason="measured"))
    assert find_rasteriser("auto", "xpu:1") is rasterise_pytorch3d.splat_views
    assert options_version("1", auto, None) == options_version("1", built_in, None)


def test_auto_says_what_it_took_and_whether_that_was_measured() -> None:
    assert "measured" in choose_rasteriser("cpu").reason
    for device in ("cuda", "cuda:1"):
        choice = choose_rasteriser(device)
        assert (choice.name, choice.reason) == ("torch", "built in; not measured against pytorch3d on cuda")


@pytest.mark.usefixtures("no_library")
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), count=st.integers(0, 150), size=st.sampled_from(SIZES))
def test_what_surrounds_the_library_keeps_places_and_ties(
    seed: int, count: int, size: tuple[int, int]
) -> None:
    assert_same(*size, *scene(seed, count))


@pytest.mark.usefixtures("no_library")
def test_a_cloud_per_view_is_drawn_into_its_view() -> None:
    points_N3, colors_N3, intrinsics_V33, w2c_V34, _ = scene(2, 80)
    points_VN3 = torch.stack([points_N3, points_N3 + 0.1, points_N3 * 2])
    colors_VN3 = torch.stack([colors_N3, 1 - colors_N3, colors_N3 / 2])
    assert assert_same(10, 14, points_VN3, colors_VN3, intrinsics_V33, w2c_V34) > 0.1


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize(
    "fails",
    [
        lambda ndc: stand_in(ndc).fill_(-1),
        lambda ndc: torch.where(stand_in(ndc) == 3, -1, stand_in(ndc)),
        lambda ndc: stand_in([cloud * torch.tensor([1, 1, -1]) + torch.tensor([0, 0, 99]) for cloud in ndc]),
    ],
    ids=["everything lost", "one pixel lost", "the farthest shown"],
)
def test_points_that_the_library_left_out_are_refused(
    fails: Callable[[Sequence[Tensor]], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterise_pytorch3d, "rasterise_squares", fails)
    with pytest.raises(RewardError, match=r"pytorch3d left out \d+ of \d+ points .* use --rasteriser torch"):
        rasterise_pytorch3d.splat_views(*scene(1, 100)[:4], 10, 14)


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "Not compiled with GPU support",
            RewardError,
            r"has no CUDA: .*FORCE_CUDA=1, https://.*--rasteriser torch",
        ),
        ("out of memory", RuntimeError, "^out of memory$"),
    ],
)
def test_a_build_without_cuda_is_explained_and_nothing_else_is(
    said: str, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    for name, module in {
        "pytorch3d": SimpleNamespace(),
        "pytorch3d.renderer": SimpleNamespace(),
        "pytorch3d.renderer.points": SimpleNamespace(),
        "pytorch3d.renderer.points.rasterize_points": SimpleNamespace(rasterize_points=fail),
        "pytorch3d.structures": SimpleNamespace(Pointclouds=lambda points: points),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(kind, match=message):
        rasterise_pytorch3d.rasterise_squares([torch.zeros(1, 3)])


@pytest.mark.usefixtures("library")
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), count=st.integers(0, 400), size=st.sampled_from(SIZES))
def test_the_library_draws_random_clouds_as_the_built_in_does(
    seed: int, count: int, size: tuple[int, int]
) -> None:
    assert_same(*size, *scene(seed, count))


@pytest.mark.usefixtures("library")
def test_the_library_gives_ties_to_the_first_point_and_does_what_the_stand_in_does() -> None:
    centres_8 = 1 - (2 * torch.arange(SIDE) + 1) / SIDE
    generator = torch.Generator().manual_seed(0)
    clouds = [
        torch.cat(
            [
                centres_8[torch.randint(SIDE, (count, 2), generator=generator)],
                torch.randint(1, 4, (count, 1), generator=generator).float(),
            ],
            dim=1,
        )
        for count in (300, 1, 40)
    ]
    assert torch.equal(rasterise_pytorch3d.rasterise_squares(clouds), stand_in(clouds))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("views", ["all", "others"])
def test_the_library_draws_a_clip_of_the_world_as_the_built_in_does(views: str) -> None:
    from pipeline.world.clips import render_prompt, world_prompts

    clip = render_prompt(world_prompts("test", 1)[0])
    reconstruction = Reconstruction(
        frames_THW3=clip.frames_THW3,
        depth_THW=clip.depth_THW,
        confidence_THW=torch.ones_like(clip.depth_THW),
        intrinsics_T33=clip.intrinsics_T33,
        w2c_T34=clip.w2c_T34,
    )
    one, other = (
        reprojection_error(reconstruction, ReprojectionOptions(views=views, rasteriser=name))
        for name in ("torch", "pytorch3d")
    )
    assert one.images_THW3 is not None
    assert other.images_THW3 is not None
    assert torch.equal(one.images_THW3, other.images_THW3)
    assert (one.value, one.coverage) == (other.value, other.coverage)
