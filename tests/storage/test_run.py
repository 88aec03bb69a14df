"""A run is one directory: opened only when it is one, left only by nobody, written by one at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from storage.errors import UserError
from storage.run import Run
from storage.tables.shards import write_shard
from tests.storage.builders import candidate


def test_a_run_is_made_once_and_opened_again(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "deep" / "run")
    before = (run.path / "run.yaml").read_bytes()
    assert Run.create_or_open(run.path) == Run.open(run.path) == run
    assert (run.path / "run.yaml").read_bytes() == before


def test_a_run_that_moved_still_reads(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "a")
    write_shard(run.shard_dir("candidates"), "candidates", [candidate()])
    (tmp_path / "a").rename(tmp_path / "b")
    assert Run.open(tmp_path / "b").rows("candidates").num_rows == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no run at .*: check the path, or start one with gpa sample"),
        ({}, r"is not a run \(it has no run.yaml\)"),
        ({"run.yaml": "a: [1"}, "run.yaml cannot be read as YAML"),
        ({"run.yaml": "\x00\xff"}, "run.yaml cannot be read as YAML"),
        ({"run.yaml": "just text"}, "is not the run.yaml of a gpa run"),
        (
            {"run.yaml": "format: gpa-run\nschema_version: 7\n"},
            "has schema version 7, this gpa reads version 1",
        ),
    ],
)
def test_what_is_no_run_is_named(tmp_path: Path, content: dict[str, str] | None, says: str) -> None:
    path = tmp_path / "run"
    if content is not None:
        path.mkdir()
        for name, text in content.items():
            (path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=says):
        Run.open(path)


def test_a_run_is_not_made_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"is not empty and has no run\.yaml: give a new or an empty directory"
    ):
        Run.create_or_open(tmp_path)
    with pytest.raises(UserError, match="is a file: a run is a directory"):
        Run.create_or_open(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_whose_first_writer_was_killed_can_be_made(tmp_path: Path) -> None:
    (tmp_path / ".run.yaml.1.ab.tmp").write_text("half")
    (tmp_path / ".locks").mkdir()
    assert Run.create_or_open(tmp_path).header()["format"] == "gpa-run"


@pytest.mark.parametrize(
    "uri",
    ["../x", "media/../../x", "/etc/passwd", "", ".", "media\\..\\x", "a/\x00", "media/videos/../../../x"],
)
def test_a_uri_that_leaves_the_run_is_refused(tmp_path: Path, uri: str) -> None:
    run = Run.create_or_open(tmp_path / "run")
    with pytest.raises(UserError, match="is not a relative path inside the run"):
        run.resolve(uri)


def test_a_link_out_of_the_run_is_refused(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    (tmp_path / "outside").mkdir()
    (run.path / "media").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=r"'media/a.png' leads out of the run .* by a link"):
        run.resolve("media/a.png")


def test_a_run_behind_a_link_is_fine(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    (tmp_path / "link").symlink_to(run.path)
    assert Run.open(tmp_path / "link").resolve("media/a.png") == tmp_path / "link" / "media" / "a.png"


def test_uris_are_made_of_ids_only(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    assert run.video_uri("ab12") == "media/videos/ab12.mp4"
    assert run.latent_uri("ab12") == "media/latents/ab12.safetensors"
    assert run.condition_uri("ab12") == "media/conditions/ab12.safetensors"
    assert run.image_uri("ab12") == "media/images/ab12.png"
    with pytest.raises(ValueError, match=r"an id must be 1-128 letters, digits, - or _, got '\.\./x'"):
        run.video_uri("../x")


def test_commands_are_recorded_side_by_side_with_versions(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    run.record("sample", {"steps": 20})
    run.record("score", {"frames": 10})
    run.record("sample", {"steps": 30})
    commands = yaml.safe_load((tmp_path / "run.yaml").read_text())["commands"]
    assert {name: entry["config"] for name, entry in commands.items()} == {
        "sample": {"steps": 30},
        "score": {"frames": 10},
    }
    assert {"gpa", "torch", "diffusers"} <= commands["sample"]["versions"].keys()
    assert "git_revision" in commands["sample"]


def _record(path: Path, number: int) -> None:
    Run.open(path).record(f"command{number}", {"number": number})


def test_no_record_is_lost_between_processes(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_record, args=(tmp_path, number)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert set(run.header()["commands"]) == {f"command{number}" for number in range(8)}


def test_a_run_of_another_model_or_revision_is_refused(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    run.require_model("anything", "r9")
    write_shard(run.shard_dir("candidates"), "candidates", [candidate()])
    run.require_model("world", "r1")
    for model, revision in (("world", "r2"), ("other", "r1")):
        with pytest.raises(
            UserError, match=f"holds candidates of world at revision r1, .*{model}.*{revision}"
        ):
            run.require_model(model, revision)


def test_one_writer_of_a_stage_at_a_time(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    with (
        run.lock("sample"),
        run.lock("score"),
        pytest.raises(UserError, match=f"another process \\(pid {os.getpid()}\\) runs sample in {tmp_path}"),
    ):
        run.lock("sample").__enter__()
    with run.lock("sample"):
        pass


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    Run.create_or_open(tmp_path)
    code = (
        "import sys, time; from storage.run import Run\n"
        "with Run.open(sys.argv[1]).lock('sample'):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"pid {other.pid}"):
            Run.open(tmp_path).lock("sample").__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait()
    with Run.open(tmp_path).lock("sample"):
        pass


def test_reading_writes_nothing(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    write_shard(run.shard_dir("candidates"), "candidates", [candidate()])
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    Run.open(tmp_path).rows("candidates")
    Run.open(tmp_path).require_model("world", "r1")
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_run_says_so(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    write_shard(run.shard_dir("candidates"), "candidates", [candidate()])
    run.path.chmod(0o555)
    try:
        assert Run.open(run.path).rows("candidates").num_rows == 1
        with pytest.raises(UserError, match="no permission to write there"):
            run.record("sample", {})
    finally:
        run.path.chmod(0o755)


def damaged(run: Run, change: str) -> str:
    path = run.path / "run.yaml"
    text = path.read_text()
    path.write_text({"cut": text[: text.index("config")], "cut early": text[:45], "empty": ""}[change])
    return text


@pytest.mark.parametrize(
    ("change", "says"),
    [("cut", "cut off|read as YAML"), ("cut early", "cut off|read as YAML"), ("empty", "is empty")],
)
def test_a_truncated_header_is_seen_and_can_be_made_again(tmp_path: Path, change: str, says: str) -> None:
    run = Run.create_or_open(tmp_path)
    write_shard(run.shard_dir("candidates"), "candidates", [candidate()])
    run.record("sample", {"steps": 20})
    damaged(run, change)
    with pytest.raises(
        UserError, match=rf"run\.yaml.*({says}).*: restore it from a copy, or delete it and"
    ) as caught:
        Run.open(tmp_path)
    assert "\n" not in str(caught.value)
    # The remedy works.
    (tmp_path / "run.yaml").unlink()
    with pytest.raises(UserError, match=r"has lost its run\.yaml: restore it from a copy, or repeat"):
        Run.open(tmp_path)
    assert Run.create_or_open(tmp_path).rows("candidates").num_rows == 1
    assert Run.open(tmp_path).header()["commands"] == {}


def test_no_cut_of_a_header_passes_for_a_whole_one(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    run.record("sample", {"steps": 20, "prompts": "a b", "seed": None})
    path = tmp_path / "run.yaml"
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            Run.open(tmp_path)
    path.write_bytes(data)
    assert Run.open(tmp_path).header()["commands"]["sample"]["config"]["steps"] == 20


def test_a_header_of_the_first_gpa_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "format: gpa-run\nschema_version: 1\ncreated_at: '2026-01-01T00:00:00+00:00'\ncommands: {}\n"
    )
    run = Run.open(tmp_path)
    run.record("sample", {"steps": 1})
    text = (tmp_path / "run.yaml").read_text()
    assert text.startswith("format: gpa-run\nschema_version: 1\ngpa: ")
    assert text.endswith("...\n")
    assert run.header()["created_at"] == "2026-01-01T00:00:00+00:00"


def test_a_header_of_a_newer_gpa_names_it(tmp_path: Path) -> None:
    Run.create_or_open(tmp_path)
    path = tmp_path / "run.yaml"
    header = yaml.safe_load(path.read_text()) | {"schema_version": 2, "gpa": "3.4", "new": {"x": 1}}
    path.write_text(yaml.safe_dump(header, sort_keys=False, explicit_end=True))
    with pytest.raises(UserError, match=r"schema version 2, this gpa reads version 1: .*'.*alignment>=3\.4'"):
        Run.open(tmp_path)


def test_other_peoples_folders_are_not_taken_for_a_run_without_header(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    with pytest.raises(UserError, match=r"is not empty and has no run\.yaml"):
        Run.create_or_open(tmp_path)
    write_shard(tmp_path / "candidates", "candidates", [candidate()])
    (tmp_path / "thesis").mkdir()
    with pytest.raises(UserError, match=r"is not empty and has no run\.yaml"):
        Run.create_or_open(tmp_path)


def test_a_disk_that_is_full_leaves_the_old_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    run = Run.create_or_open(tmp_path / "run")
    before = (run.path / "run.yaml").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot write .*run\.yaml: the disk is full; free some space"):
            run.record("sample", {"steps": 1})
        with pytest.raises(UserError, match="the disk is full"):
            Run.create_or_open(tmp_path / "other")
    assert (run.path / "run.yaml").read_bytes() == before
    assert [path.name for path in run.path.iterdir() if path.name.endswith(".tmp")] == []
    # What the failed start left is no obstacle.
    assert Run.create_or_open(tmp_path / "other").header()["commands"] == {}
