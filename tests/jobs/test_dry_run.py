"""--dry-run of every command: right counts, hours from what was measured, nothing written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.main import COMMANDS
from pipeline.forecast.forecast import Footprint, Forecast, Rate, duration, size, total
from storage.run import Run
from tests.conftest import write_prompts
from tests.jobs.test_cli import ANY_GAP, geometry_options, gpa, tiny_options

FIELDS = {"unit", "wanted", "present", "missing", "hours", "gpu_hours", "rate", "bytes", "size"}
NO_WORK = {"missing": 0, "hours": 0, "gpu_hours": 0, "bytes": 0}


def tree(folder: Path) -> list[tuple[str, int, bytes]]:
    return sorted(
        (str(path.relative_to(folder)), path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    )


def told(*words: object) -> dict[str, Any]:
    result = gpa(*words, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


@pytest.fixture(scope="module")
def commands(
    tiny_model: Path, tiny_geometry: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[object]]:
    """The commands of a tiny run of two prompts, in order; what they are to do is done by `done`."""
    folder = tmp_path_factory.mktemp("dry")
    run, prompts = folder / "run", write_prompts(folder / "prompts", 2)
    train = ["--model", tiny_model, "--steps", 4, "--warmup", 0, "--batch-size", 2, "--checkpoint-every", 2]
    return {
        "sample": ["sample", run, *tiny_options(tiny_model, prompts)],
        "score": ["score", run, *geometry_options(tiny_geometry)],
        "pair": ["pair", run, *ANY_GAP],
        "train-dpo": ["train-dpo", run, *train],
    }


@pytest.mark.slow
def test_what_is_foretold_of_the_whole_flow_comes_true(commands: dict[str, list[object]]) -> None:
    run = Path(str(commands["sample"][1]))
    for name, words in commands.items():
        before = tree(run) if run.exists() else None
        first = told(*words)
        assert first.keys() >= FIELDS, name
        assert (first["missing"], first["present"]) == (first["wanted"], 0)
        # Nothing like it was done, so there is nothing to go by.
        assert first["hours"] is None
        assert first["gpu_hours"] == 0
        assert first["bytes"] > 0
        words_of_it = gpa(*words, "--dry-run").stdout
        assert (
            f"{first['wanted']} {first['unit']} wanted, 0 are there, {first['missing']} to do" in words_of_it
        )
        assert ("no model runs" if name == "pair" else "then ask again") in words_of_it
        assert (tree(run) if run.exists() else None) == before, name
        assert gpa(*words).exit_code == 0
        again = told(*words)
        assert {key: again[key] for key in NO_WORK} == NO_WORK, name
        assert again["present"] == again["wanted"] == first["wanted"], name
    _more_of_the_same_has_a_price(commands, run)


def _more_of_the_same_has_a_price(commands: dict[str, list[object]], run: Path) -> None:
    rows = Run.open(run).rows("candidates").to_pylist()
    each = sorted(row["seconds"] for row in rows)[len(rows) // 2]
    more = told(*commands["sample"], "--candidates", 6)
    assert (more["wanted"], more["present"], more["missing"]) == (12, 6, 6)
    assert more["hours"] == pytest.approx(6 * each / 3600, rel=0.5)
    assert more["rate"] == "median of 6 candidates of these settings"
    media = sum(path.stat().st_size for path in (run / "media").rglob("*") if path.parent.name != "images")
    assert more["bytes"] == pytest.approx(media, rel=0.3)
    # Another size was never timed.
    assert told(*commands["sample"], "--steps", 3)["hours"] is None
    more = told(*commands["train-dpo"], "--name", "other")
    assert (more["present"], more["missing"]) == (0, more["wanted"])
    assert more["hours"] > 0
    assert "logged steps like these" in more["rate"]


@pytest.mark.slow
def test_an_evaluation_is_foretold(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    adapter = tmp_path / "adapter"
    missing = gpa("evaluate", run.path, "--adapter", adapter, "--dry-run")
    assert missing.exit_code == 1
    assert "has no pytorch_lora_weights.safetensors" in missing.stderr
    _adapter_of_the_world(adapter)
    words = ["evaluate", run.path, "--adapter", adapter, "--num-prompts", 2, "--seeds", 3]
    before = tree(run.path)
    values = told(*words)
    assert values.keys() == {"sample", "score", "judge", "hours", "gpu_hours", "bytes"}
    for part in ("sample", "score", "judge"):
        # Two prompts, three seeds, base and adapter.
        assert values[part].keys() == FIELDS
        assert (values[part]["wanted"], values[part]["missing"]) == (12, 12)
    assert values["hours"] is None
    assert values["bytes"] == sum(values[part]["bytes"] for part in ("sample", "score", "judge")) > 0
    said = gpa(*words, "--dry-run").stdout
    assert "sample: 12 candidates wanted" in said
    assert "score: 12 scores wanted" in said
    assert "judge: 12 clips to judge wanted" in said
    assert tree(run.path) == before
    assert not (run.path / "eval").exists()


@pytest.mark.parametrize("link", [True, False])
def test_an_import_is_foretold(tmp_path: Path, link: bool) -> None:
    import numpy as np

    from storage.media.video import write_video

    generator = np.random.default_rng(0)
    for seed in range(3):
        frames = generator.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
        write_video(tmp_path / "videos" / "a hall" / f"{seed}.mp4", frames, 8)
    how = "--link" if link else "--copy"
    words = ["import", tmp_path / "run", tmp_path / "videos", "--workers", 0, how]
    first = told(*words)
    assert first.keys() >= FIELDS
    assert (first["wanted"], first["missing"], first["hours"]) == (3, 3, None)
    size_of_all = sum(path.stat().st_size for path in (tmp_path / "videos").rglob("*.mp4"))
    assert first["bytes"] == (0 if link else size_of_all)
    assert not (tmp_path / "run").exists()
    assert gpa(*words).exit_code == 0
    again = told(*words)
    assert {key: again[key] for key in NO_WORK} == NO_WORK
    write_video(tmp_path / "videos" / "a hall" / "9.mp4", frames[::-1], 8)
    more = told(*words)
    assert (more["present"], more["missing"]) == (3, 1)
    assert more["hours"] > 0


def _adapter_of_the_world(folder: Path) -> None:
    """As much of an adapter as is read before any weight is."""
    import hashlib

    from pipeline.models import resolve_model

    folder.mkdir()
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    base = resolve_model("world")
    about = {
        "base_model": base.name,
        "base_revision": base.revision,
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    (folder / "adapter.json").write_text(json.dumps(about))


@pytest.mark.parametrize("name", ["sample", "import", "score", "pair", "train-dpo", "evaluate"])
def test_every_command_that_costs_something_can_be_asked_first(name: str) -> None:
    assert name in COMMANDS
    assert "--dry-run" in gpa(name, "--help").output


def forecast(**changes: Any) -> Forecast:
    given: dict[str, Any] = {
        "unit": "clips",
        "wanted": 1000,
        "present": 100,
        "rate": Rate.measured([8, None, 10, 12], "clips of this run", "nothing"),
        "footprint": Footprint(each=1e6, once=5e6, source="as 4 files"),
        "workers": 4,
        "gpus_per_worker": 0.5,
    }
    return Forecast(**given | changes)


def test_the_arithmetic() -> None:
    one = forecast()
    assert (one.missing, one.bytes) == (900, 905_000_000)
    assert one.hours == pytest.approx(900 * 10 / 4 / 3600)
    assert one.gpu_hours == pytest.approx(900 * 10 * 0.5 / 3600)
    assert str(one).splitlines() == [
        "1,000 clips wanted, 100 are there, 900 to do",
        "time: about 38 min, 1.25 GPU-hours (10 s each by the median of 3 clips of this run, 4 workers)",
        "disk: about 863 MiB (as 4 files)",
    ]
    # In this process; and never more workers than there is work.
    assert forecast(workers=0).hours == pytest.approx(4 * (one.hours or 0))
    assert forecast(present=999).hours == pytest.approx(10 / 3600)
    unknown = forecast(
        rate=Rate.measured([None], "x", "nobody looked"), footprint=Footprint(each=None, source="?")
    )
    assert (unknown.hours, unknown.gpu_hours, unknown.bytes) == (None, None, None)
    assert str(unknown).splitlines()[1:] == ["time: unknown (nobody looked)", "disk: unknown (?)"]
    assert total([one, unknown]) == {"hours": None, "gpu_hours": None, "bytes": None}
    assert total([one, one])["bytes"] == 2 * 905_000_000
    done = forecast(present=1000)
    assert (done.hours, done.gpu_hours, done.bytes) == (0, 0, 0)
    assert "\n" not in str(done)


def test_figures_in_words() -> None:
    assert [duration(hours) for hours in (0.001, 0.5, 1.5, 30, 2000)] == [
        "4 s",
        "30 min",
        "90 min",
        "30.0 h",
        "2,000.0 h",
    ]
    assert [size(count) for count in (10, 2048, 5 * 2**20, 3.5 * 2**30, 2**50)] == [
        "10 bytes",
        "2 KiB",
        "5 MiB",
        "3.5 GiB",
        "1.02e+03 TiB",
    ]


@pytest.mark.parametrize("preset", ["cogvideox-5b-i2v", "wan2.1-t2v-14b"])
def test_sizes_follow_from_the_configuration_of_a_large_model(tmp_path: Path, preset: str) -> None:
    """Without any weights: what a candidate of 49 frames of 480x720 and one of 81 of 480x832 leave."""
    from jobs.data.sample import sample_settings
    from jobs.settings.presets import load_preset
    from pipeline.forecast.forecast import model_sizes
    from pipeline.models import ModelRef

    vae, family = {
        "cogvideox-5b-i2v": (
            {"latent_channels": 16, "block_out_channels": [1] * 4, "temporal_compression_ratio": 4},
            "CogVideoXImageToVideoPipeline",
        ),
        "wan2.1-t2v-14b": ({"z_dim": 16}, "WanPipeline"),
    }[preset]
    for name, values in (("vae", vae), ("text_encoder", {"d_model": 4096})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    (tmp_path / "model_index.json").write_text("{}")
    model = ModelRef(name="m", revision="r", path=tmp_path, family=family)
    settings = sample_settings(load_preset(preset)["sample"]).sampler
    latents = 4 * 16 * ((settings.num_frames - 1) // 4 + 1) * (settings.height // 8) * (settings.width // 8)
    found = model_sizes(model, settings)
    assert found is not None
    assert found.latents == latents
    assert 0.1 <= found.video / (settings.num_frames * settings.height * settings.width) <= 0.75
    image = latents / 2 if family.startswith("Cog") else 0
    assert found.condition == pytest.approx(2 * 4096 * settings.max_sequence_length + image)
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert model_sizes(model, settings) is None


def test_a_dry_run_reads_a_run_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root everything can be written, so every way to open a file for writing is shut instead."""
    from tests.storage.builders import run_with_pairs

    run = run_with_pairs(tmp_path / "run", prompts=3)
    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(run.path) in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    rules = ["--reward", "reprojection", "--split", "all", "--min-image-motion", 0]
    rules += ["--min-sharpness", 0, "--min-coverage", 0]
    shown = gpa("pair", run.path, *rules, "--dry-run", "--json")
    assert json.loads(shown.stdout)["pairs"] == 3, shown.output
    refused = gpa("pair", run.path, *rules)
    assert refused.exit_code == 1
    assert "no permission to write there" in refused.stderr
