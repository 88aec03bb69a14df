"""What gpa starts listens on the loopback interface alone; TensorBoard is written, never served.

Its workers compute with the priority of the command.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import write_prompts
from tests.jobs.test_cli import tiny_options

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def listening(process: psutil.Process) -> list[tuple[str, str, int]]:
    """Command, address and port of every socket that takes connections or datagrams, children included."""
    found = []
    for one in (process, *process.children(recursive=True)):
        try:
            name = " ".join(one.cmdline())
            for socket in one.net_connections(kind="inet"):
                if (
                    socket.laddr
                    and not socket.raddr
                    and socket.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
                ):
                    found.append((name, socket.laddr.ip, socket.laddr.port))
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def test_a_local_ray_listens_on_loopback_only(tiny_model: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", 1)
    run = tmp_path / "run"
    options = map(str, [*tiny_options(tiny_model, prompts), "--workers", 1])
    words = [sys.executable, "-m", "jobs.main", "sample", str(run), *options]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as command:
        process = psutil.Process(command.pid)
        seen: set[tuple[str, str, int]] = set()
        commands: set[str] = set()
        priorities: set[int] = set()
        while command.poll() is None:
            seen.update(listening(process))
            commands.update(" ".join(one.cmdline()) for one in _living(process))
            priorities.update(_priorities(process, "ray::RayWorker"))
            time.sleep(0.3)
        assert command.stderr is not None
        assert command.returncode == 0, command.stderr.read()
    # The worker was there, and so was Ray's control service: otherwise this test looks at nothing.
    assert any("gcs_server" in name for name, _, _ in seen)
    assert any("raylet" in one for one in commands)
    assert priorities == {psutil.Process().nice()}, "workers starve beside other work"
    assert [one for one in sorted(seen) if not is_loopback(one[1])] == []
    # Without the dashboard Ray still starts its process, which then serves nothing.
    heads = [one for one in commands if "dashboard/dashboard.py" in one]
    assert [one for one in heads if "--disable-frontend" not in one or "--minimal" not in one] == []
    assert [one for one in seen if "dashboard/dashboard.py" in one[0]] == []


def _priorities(process: psutil.Process, name: str) -> set[int]:
    found = set()
    for one in process.children(recursive=True):
        try:
            if any(name in word for word in one.cmdline()):
                found.add(one.nice())
        except psutil.Error:
            continue
    return found


def _living(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in process.children(recursive=True):
        try:
            one.cmdline()
        except psutil.Error:
            continue
        found.append(one)
    return found


def test_tensorboard_is_written_and_never_served(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.tracking import TensorBoardTracker

    from trainer.saving.metrics import MetricsLog

    Accelerator(cpu=True)
    before = set(listening(psutil.Process()))
    tracker = TensorBoardTracker("tensorboard", tmp_path)
    tracker.start()
    with MetricsLog(tmp_path, 0, [tracker]) as log:
        log.write(1, {"loss": 0.5})
        assert set(listening(psutil.Process())) == before
    assert list((tmp_path / "tensorboard").glob("events.*"))
    sources = [
        path.read_text() for name in ("trainer", "jobs", "pipeline") for path in (ROOT / name).rglob("*.py")
    ]
    assert not [text for text in sources if "tensorboard.program" in text or "import tensorboard" in text]
