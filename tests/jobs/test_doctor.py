"""gpa doctor: a line for everything, a remedy for what is not ok, exit code 1 only for what is required."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.doctor import machine, software, weights
from jobs.doctor.command import preset_needs
from jobs.doctor.finding import Finding, Needs, guarded
from jobs.settings.presets import Preset, find_preset, load_preset, preset_names
from storage.run import Run
from tests.jobs.test_cli import gpa

BIG = "wan2.1-t2v-14b"


def by_name(findings: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def asked(*words: object, code: int = 0) -> dict[str, dict[str, Any]]:
    result = gpa("doctor", *words, "--json")
    assert result.exit_code == code, result.output
    values = json.loads(result.stdout)
    assert values["ok"] == (code == 0)
    return {finding["name"]: finding for finding in values["findings"]}


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but those of the repository, wherever the tests run."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))


def test_this_machine_is_ready_for_the_world(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    before = sorted(run.path.rglob("*"))
    found = asked(run.path)
    assert found["torch"]["state"] == found["H.264"]["state"] == found["rasteriser torch"]["state"] == "ok"
    assert found["model world"]["state"] == found["geometry world"]["state"] == found["run"]["state"] == "ok"
    assert f"free at {run.path}" in found["disk"]["detail"]
    # The others' weights are told with size, licence and the command that fetches them, and not required.
    for preset in preset_names():
        name = load_preset(preset)["sample"]["model"]
        line = found[f"model {name}"]
        if name != "world":
            assert (line["state"], line["required"]) == ("missing", False)
            assert "GiB at 16 bits" in line["detail"]
            assert line["remedy"] == f"hf download {name}"
            assert "Apache-2.0" in line["detail"] or "licence" in line["detail"]
    assert all((line["remedy"] is None) == (line["state"] == "ok") for line in found.values())
    assert sorted(run.path.rglob("*")) == before


def test_a_preset_narrows_to_what_it_needs_and_requires_it() -> None:
    found = asked("--preset", BIG, code=1)
    assert {name for name in found if name.startswith(("model", "geometry"))} == {
        "model Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "geometry vggt",
    }
    for name in ("model Wan-AI/Wan2.1-T2V-14B-Diffusers", "geometry vggt", "lpips-vgg"):
        assert found[name]["required"], name
    assert not found["lpips-alex"]["required"]
    shown = gpa("doctor", "--preset", BIG)
    assert shown.exit_code == 1
    assert f"not ready for {BIG}: " in shown.stdout
    assert "missing ! geometry vggt" in shown.stdout
    assert "-> fetch them with: hf download facebook/VGGT-1B model.safetensors" in shown.stdout
    assert "CC-BY-NC-4.0" in shown.stdout
    assert gpa("doctor", "--preset", "sora").exit_code == 1


def test_nothing_is_asked_of_the_network_and_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "connect_ex", refused)
    monkeypatch.setattr(socket.socket, "listen", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    children = set(psutil.Process().children(recursive=True))
    assert "model THUDM/CogVideoX-2b" in asked()
    assert set(psutil.Process().children(recursive=True)) <= children


def test_needs_are_those_of_the_preset() -> None:
    needs = preset_needs([find_preset(BIG)])
    assert needs == Needs(
        models=("Wan-AI/Wan2.1-T2V-14B-Diffusers",),
        geometries=(("vggt", None),),
        perceptuals=("lpips-vgg",),
        rasterisers=("auto",),
        gpus=1,
    )
    changed = load_preset("world")
    changed["train-dpo"] |= {"optimizer": "adamw8bit"}
    changed["score"] |= {"geometry": "depth-anything", "geometry_model": "x/y", "matcher": "lightglue-disk"}
    changed["sample"] |= {"workers": 4, "gpus_per_worker": 0.5}
    needs = preset_needs([Preset(name="mine", sections=changed, lineage=("mine",))])
    assert set(needs.packages) == {"bitsandbytes", "depth-anything-3", "kornia"}
    assert (needs.geometries, needs.gpus) == ((("depth-anything", "x/y"),), 2)


def test_every_model_of_a_preset_is_known_with_its_licence() -> None:
    for preset in preset_names():
        name = load_preset(preset)["sample"]["model"]
        assert name == "world" or weights.PUBLISHED[name].license


def hub_model(folder: Path, name: str, drop: str | None = None) -> None:
    """A model in the Hub's cache as it is laid out there: links into blobs."""
    root = folder / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / "abc123"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc123")
    (root / "blobs").mkdir()
    index = {"_class_name": "WanPipeline", "image_encoder": [None, None], "boundary_ratio": None}
    index |= {"transformer": ["diffusers", "X"], "vae": ["diffusers", "Y"], "scheduler": ["diffusers", "Z"]}
    shards = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    files: dict[str, Any] = {
        "model_index.json": index,
        "transformer/config.json": {},
        "transformer/m.safetensors.index.json": shards,
        "transformer/m-1.safetensors": "x" * 100,
        "transformer/m-2.safetensors": "y" * 100,
        "vae/config.json": {},
        "vae/w.safetensors": "z",
        "scheduler/scheduler_config.json": {},
    }
    for number, (path, content) in enumerate(files.items()):
        blob = root / "blobs" / str(number)
        if path != drop:
            blob.write_text(content if isinstance(content, str) else json.dumps(content))
        place = snapshot / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(blob)  # of an interrupted download the link may be there without its blob


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        (None, None),
        ("transformer/m-2.safetensors", "no transformer/m-2.safetensors"),
        ("vae/w.safetensors", r"no vae/*.safetensors"),
        ("model_index.json", "no model_index.json"),
        ("scheduler/scheduler_config.json", "no scheduler/"),
    ],
)
def test_a_model_counts_only_when_every_file_of_it_is_there(
    tmp_path: Path, drop: str | None, says: str | None
) -> None:
    name = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    hub_model(tmp_path / "hub", name, drop)
    (line,) = weights.video_models((name,), Needs(models=(name,)))
    if says is None:
        assert (line.state, line.remedy) == ("ok", None)
        assert "Apache-2.0" in line.detail
    else:
        assert line.state == "problem"
        assert line.breaks
        assert says in line.detail
        assert line.remedy == f"hf download {name}"


def test_missing_weights_of_the_repository_are_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(weights.PACKAGED["world"], tmp_path / "world")
    (tmp_path / "world" / "vae" / "config.json").unlink()
    monkeypatch.setitem(weights.PACKAGED, "world", tmp_path / "world")
    (line,) = weights.video_models(("world",), Needs())
    assert line.breaks
    assert "lacks vae/" in line.detail
    assert "gpa pretrain-world" in (line.remedy or "")


def test_versions_that_are_not_taken_and_those_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software._version
    odd = {"torch": "2.1.0+cu121", "duckdb": None, "ray": "999.0"}
    monkeypatch.setattr(software, "_version", lambda name: odd[name] if name in odd else real(name))
    found = by_name(software.packages())
    assert {one.name for one in software.requirements()} >= odd.keys()
    assert (found["torch"].state, found["torch"].breaks) == ("problem", True)
    assert "2.1.0+cu121, needed is >=" in found["torch"].detail
    assert (found["duckdb"].state, found["duckdb"].breaks) == ("missing", True)
    assert (found["duckdb"].remedy or "").startswith("pip install 'duckdb")
    assert found["ray"].state == "ok"
    differ = found["tested versions"]
    assert "ray 999.0 (tested " in differ.detail
    assert not differ.breaks
    monkeypatch.setattr(software, "_version", lambda name: software.constraints().get(name, "1e9") + "+cpu")
    assert by_name(software.packages())["tested versions"].state == "ok"


def test_optional_packages_are_required_only_by_who_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_version", lambda name: None)
    found = by_name(software.optional(Needs(packages=("kornia",))))
    assert found["kornia"].breaks
    assert not found["bitsandbytes"].breaks
    assert "[8bit]" in (found["bitsandbytes"].remedy or "")


def gpu_of_torch(monkeypatch: pytest.MonkeyPatch, driver: str | None, available: bool) -> None:
    monkeypatch.setattr(machine, "_driver", lambda: driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)


@pytest.mark.parametrize(
    ("driver", "state", "says"),
    [(None, "missing", "none here"), ("570.1", "problem", "driver 570.1 is here, but")],
)
def test_no_gpu_breaks_only_what_uses_one(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, state: str, says: str
) -> None:
    gpu_of_torch(monkeypatch, driver, False)
    (idle,) = machine.gpus(Needs())
    (wanted,) = machine.gpus(Needs(gpus=1))
    assert (idle.state, idle.breaks, wanted.breaks) == (state, False, True)
    assert says in idle.detail


def disk_with(free: float) -> Callable[[object], Any]:
    return lambda _: shutil._ntuple_diskusage(100, 0, int(free))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("gib", "state", "breaks"), [(50, "ok", False), (2, "problem", False), (0.1, "problem", True)]
)
def test_little_disk_is_told_and_none_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, state: str, breaks: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", disk_with(gib * 2**30))
    line = by_name(machine.disk(tmp_path / "not" / "yet"))["disk"]
    assert (line.state, line.breaks) == (state, breaks)
    assert f"at {tmp_path}" in line.detail


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (line,) = machine.memory()
    assert line.detail.startswith("0.2 GiB")
    assert line.breaks
    (cores,) = machine.cores()
    assert cores.detail.endswith("limited to 1.5")
    (tmp_path / "memory.max").write_text("max\n")
    assert next(machine.memory()).detail != line.detail


def test_a_place_without_locks_or_without_leave_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import fcntl

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refused)
        line = by_name(machine.disk(tmp_path))["locks"]
        assert line.breaks
        assert "has no locks" in line.detail
        assert "GPA_LOCKS=off" in (line.remedy or "")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert by_name(machine.disk(tmp_path))["locks"].detail == f"{tmp_path} is not writable"


def test_a_codec_that_blurs_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.media.video.read_video", lambda _: 255 - machine._clip())
    (line,) = machine.video()
    assert line.breaks
    assert "rewards would measure the codec" in (line.remedy or "")


def test_a_damaged_run_is_a_finding(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    (run.path / "run.yaml").write_text("format: gpa-run\n")
    line = asked(run.path, code=1)["run"]
    assert line["detail"].endswith("run.yaml is cut off (its end is missing)")
    assert line["remedy"].startswith("restore it from a copy")


def test_a_check_that_falls_over_hides_no_other() -> None:
    def check() -> Any:
        yield Finding(name="a", state="ok", detail="fine")
        raise ImportError("libfoo.so: cannot open\nshared object")

    first, second = guarded("b", check, required=True)
    assert first.state == "ok"
    assert second.breaks
    assert "ImportError: libfoo.so: cannot open shared object" in second.detail


def test_a_finding_has_a_remedy_exactly_when_it_is_not_ok() -> None:
    for state, remedy in (("ok", "do"), ("missing", None), ("problem", None)):
        with pytest.raises(ValueError, match="a remedy goes with what is not ok"):
            Finding(name="x", state=state, detail="", remedy=remedy)  # type: ignore[arg-type]
