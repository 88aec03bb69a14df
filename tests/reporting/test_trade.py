"""The plot of measure against measure: what it shows, that keys reach it, and that it fits small screens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.reporting.build import ReportSettings, build_report
from jobs.reporting.command import reward_of
from storage.run import Run
from tests.reporting.builders import with_evaluation
from tests.reporting.conftest import Opened

BASE = {"error_3dcs": 0.003, "motion": 0.014, "fault": 0.5}
# Of every model: mean, and the interval of its difference from the base, by measure.
MODELS = {
    "best": {"error_3dcs": (0.0024, -0.0007, -0.0005), "motion": (0.0135, -0.0008, -0.0002)},
    "other": {
        "error_3dcs": (0.0022, -0.001, -0.0006),
        "motion": (0.011, -0.004, -0.002),
        "fault": (0.4, -0.2, 0),
    },
    "best/0": {"error_3dcs": (0.0025, -0.0006, -0.0004), "motion": (0.0136, -0.0005, -0.0003)},
    "best/1": {"error_3dcs": (0.0023, -0.0008, -0.0006), "motion": (0.0134, -0.0007, -0.0005)},
}


def rows(name: str) -> list[dict[str, Any]]:
    return [
        {
            "measure": measure,
            "better": 0 if measure == "motion" else -1,
            "base": BASE[measure],
            "adapter": mean,
            "difference": {"mean": mean - BASE[measure], "low": low, "high": high},
            "prompts": 4,
            "spread": {"trainings": 2} if name == "best" else None,
        }
        for measure, (mean, low, high) in MODELS[name].items()
    ]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run.create_or_open(tmp_path_factory.mktemp("trade") / "run")
    truths = {
        "heldout": {"error_3dcs": 0.002, "motion": 0.0138},
        "far": {"error_3dcs": 0.1, "motion": 0.0138},
    }
    for name, truth in truths.items():
        with_evaluation(run, name)
        result = {"tables": {model: rows(model) for model in MODELS}, "filtered": {}, "truth": truth}
        (run.path / "eval" / name / "evaluation.json").write_text(json.dumps(result))
    with_evaluation(run, "one")
    build_report(run, ReportSettings(reconstructions=0), reward_of=reward_of)
    return run.path


@pytest.fixture
def opened(browser: Any, reported: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = Opened(context.new_page(), reported / "report" / "index.html")
    yield page
    page.require_clean()
    context.close()


def plot(opened: Opened, name: str = "heldout") -> Any:
    found = opened.page.locator(".evaluation", has=opened.page.get_by_role("heading", name=name)).first
    found.locator(".trade .point").first.wait_for()
    return found.locator(".trade")


def test_error_against_motion_comes_first_with_intervals_both_ways(opened: Opened) -> None:
    trade = plot(opened)
    texts = trade.locator(".point").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert texts == [
        "base: error_3dcs 0.003000, motion 0.01400",
        "true clips: error_3dcs 0.002000, motion 0.01380",
        "best: error_3dcs 0.002400 [0.002300, 0.002500], motion 0.01350 [0.01320, 0.01380]",
        "other: error_3dcs 0.002200 [0.002000, 0.002400], motion 0.01100 [0.01000, 0.01200]",
    ]
    assert trade.locator(".point .name").all_text_contents() == ["base", "true clips", "best", "other"]
    assert trade.locator(".training").count() == 2
    # The bars end where the scales say that the intervals do: those of the other model are twice, and once.
    spans = trade.locator(".point[data-name=other] .span").evaluate_all(
        "all => all.map((one) => ['x1', 'x2', 'y1', 'y2'].map((name) => Number(one.getAttribute(name))))"
    )
    (x1, x2, y, _), (x, _, y1, y2) = spans
    assert (x1 + x2) / 2 == pytest.approx(x)
    assert (y1 + y2) / 2 == pytest.approx(y)
    mine = trade.locator(".point[data-name=best] .span").first
    width = float(mine.get_attribute("x2")) - float(mine.get_attribute("x1"))
    assert (x2 - x1) / width == pytest.approx(0.002 / 0.0006)
    forms = trade.locator(".point path").evaluate_all("all => all.map((one) => one.getAttribute('d'))")
    assert forms[2] != forms[3], "told apart without their colours"


def test_other_measures_are_chosen_and_points_are_reached_by_keys(opened: Opened) -> None:
    trade, page = plot(opened), opened.page
    trade.locator("[name=trade-x]").select_option("fault")
    assert trade.locator(".point .name").all_text_contents() == ["base", "other"], "best has no fault"
    trade.locator("[name=trade-y]").select_option("motion")
    trade.locator("[name=trade-x]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    told = trade.locator(".tip").inner_text()
    assert re.fullmatch(r"other: motion 0\.01100 \[.*\], fault 0\.4000 \[0\.3000, 0\.5000\]", told)


def test_true_clips_far_off_do_not_press_the_models_together(opened: Opened) -> None:
    trade = plot(opened, "far")
    assert trade.locator(".point .name").all_text_contents() == ["base", "best", "other"]
    assert trade.locator(".far").inner_text().startswith("Not in the picture, true clips: error_3dcs 0.1000")


def test_one_adapter_is_no_trade(opened: Opened) -> None:
    plot(opened)
    assert opened.page.locator(".evaluation").count() == 3
    assert opened.page.locator(".trade").count() == 2


def test_it_fits_a_small_screen_and_no_name_lies_on_another(browser: Any, reported: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 780})
    opened = Opened(context.new_page(), reported / "report" / "index.html")
    trade = plot(opened)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [one.bounding_box() for one in trade.locator(".point .name").all()]
    for at, one in enumerate(boxes):
        for other in boxes[at + 1 :]:
            apart = [
                one[start] >= other[start] + other[size] or other[start] >= one[start] + one[size]
                for start, size in (("x", "width"), ("y", "height"))
            ]
            assert any(apart), (one, other)
    opened.require_clean()
    context.close()
