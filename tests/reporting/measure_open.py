"""How long a report takes to open in headless Chromium: python -m tests.reporting.measure_open [PAGE].

Prints the seconds from the address to the ready page, and to its first painted cards, of five fresh browsers.
Without a PAGE it makes a report of 500 pairs first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.reporting.conftest import ARGS, chromium


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        page_path = Path(sys.argv[1]) if len(sys.argv) > 1 else made(Path(folder))
        with sync_playwright() as playwright:
            for _ in range(5):
                browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGS))
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                started = time.perf_counter()
                page.goto(page_path.resolve().as_uri(), wait_until="commit")
                page.wait_for_selector("html[data-ready]")
                ready = time.perf_counter() - started
                page.wait_for_selector(".card")
                page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
                painted = time.perf_counter() - started
                cards = page.evaluate("gpa.gallery.all.length")
                sys.stdout.write(f"{cards} pairs: ready {ready:.2f} s, painted {painted:.2f} s\n")
                browser.close()


def made(folder: Path) -> Path:
    """The page of a report of 500 pairs."""
    from jobs.reporting.build import ReportSettings, build_report
    from jobs.reporting.command import reward_of
    from tests.reporting.builders import run_to_report

    run = run_to_report(folder / "run", 500)
    return build_report(run, ReportSettings(reconstructions=0), reward_of=reward_of).page


if __name__ == "__main__":
    main()
