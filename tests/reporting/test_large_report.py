"""A report of 500 pairs: its size, and that the page can be used. How fast it opens is measured apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.reporting.build import ReportSettings, build_report
from jobs.reporting.command import reward_of
from tests.reporting.builders import run_to_report
from tests.reporting.conftest import Opened

PAIRS = 500
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_to_report(tmp_path_factory.mktemp("large") / "run", PAIRS)
    made = build_report(run, ReportSettings(reconstructions=0), reward_of=reward_of)
    assert (made.pairs, made.copied) == (PAIRS, 2 * PAIRS)
    # Reconstructions of 64 x 64 pixels add half a MB each.
    assert made.bytes - made.video_bytes < 10 * 2**20
    return made.page


def test_500_pairs_can_be_looked_through(browser: Any, large: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = Opened(context.new_page(), large)
    page = opened.page
    assert page.locator("#pairs .tally").inner_text() == "500 pairs"
    # The rest is drawn when it comes near.
    assert page.locator(".card").count() < PAIRS
    page.locator("[name=order]").select_option("narrowest")
    page.locator(".card").first.click()
    opened.wait("gpa.viewer.state() && gpa.viewer.state().at >= 0")
    page.keyboard.press("ArrowLeft")
    page.evaluate("gpa.viewer.open(gpa.gallery.shown.at(-1))")
    opened.wait("gpa.viewer.state() && gpa.viewer.state().pair === gpa.gallery.shown.at(-1).id")
    page.keyboard.press("Escape")
    opened.wait("document.activeElement.dataset.id === gpa.gallery.shown.at(-1).id")
    assert page.locator(".card").count() == PAIRS
    opened.require_clean()
    context.close()
