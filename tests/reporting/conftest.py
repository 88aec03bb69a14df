"""A headless Chromium, where there is one, and a report to open in it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.builders import run_to_report, with_evaluation, with_training

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """The Chromium that tests use: $GPA_CHROMIUM, or one on the PATH."""
    named = os.environ.get("GPA_CHROMIUM")
    if named:
        return named
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A running Chromium; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium is on the PATH: make browser")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(ARGS))
        yield running
        running.close()


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six pairs with a report, a training and an evaluation."""
    from jobs.reporting.build import ReportSettings, build_report
    from jobs.reporting.command import reward_of

    run = run_to_report(tmp_path_factory.mktemp("report") / "run")
    with_training(run)
    with_evaluation(run)
    build_report(run, ReportSettings(reconstructions=0), reward_of=reward_of)
    return run.path


class Opened:
    """A page that was opened, and all that it logged and asked for."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.logged: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.logged.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("requestfailed", lambda request: self._failed(request))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")

    def _failed(self, request: Any) -> None:
        # A video that is closed while it loads was not missed.
        if not request.url.endswith(".mp4"):
            self.logged.append(f"failed: {request.url}")

    def require_clean(self) -> None:
        """Nothing was logged, nothing outside of the folder was asked for, and no string of the run ran."""
        assert self.logged == []
        assert [url for url in self.asked if not url.startswith(("file://", "data:", "blob:"))] == []
        assert self.page.evaluate("window.pwned") is None

    def wait(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true: the page's policy lets nothing evaluate strings inside of it."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression} did not come true: {self.logged}"
            self.page.wait_for_timeout(20)

    def state(self) -> dict[str, Any]:
        """The clock of the open pair."""
        found: dict[str, Any] = self.page.evaluate("gpa.viewer.state()")
        return found


@pytest.fixture
def opened(browser: Any, reported: Path) -> Iterator[Opened]:
    """The report's page at the size of a desktop, without a trace of earlier tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = Opened(context.new_page(), reported / "report" / "index.html")
    yield page
    page.require_clean()
    context.close()
