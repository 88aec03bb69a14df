"""The page of a report in a headless Chromium: it plays, filters, decides and exports, and asks nobody."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.reporting.build import ReportSettings, build_report
from jobs.reporting.command import reward_of
from pipeline.pairing import run_pair
from storage.mining.rules import PairRules, PairSettings
from storage.run import Run
from tests.reporting.builders import FRAMES, HOSTILE, LOSER, WINNER, level, mixed_import, with_training
from tests.reporting.conftest import Opened


def shown_frame(picture: Image.Image, channel: int) -> int:
    """The frame that a picture of a clip shows, by its brightness."""
    value = float(np.asarray(picture.convert("RGB"))[..., channel].astype(float).mean())
    return int(np.argmin([abs(value - level(frame)) for frame in range(FRAMES)]))


def both_frames(opened: Opened) -> tuple[int, int]:
    """The frames that winner and loser show in one picture of the page."""
    # A busy compositor may show what was drawn on one canvas a frame before the other's.
    opened.page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
    whole = Image.open(io.BytesIO(opened.page.screenshot()))
    frames = []
    for kind, channel in (("winner", WINNER), ("loser", LOSER)):
        box = opened.page.locator(f".cell.{kind} canvas").first.bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        crop = whole.crop((middle[0] - 20, middle[1] - 20, middle[0] + 20, middle[1] + 20))
        frames.append(shown_frame(crop, channel))
    return frames[0], frames[1]


def open_first(opened: Opened) -> None:
    opened.page.locator(".card").first.click()
    opened.wait("gpa.viewer.state() && gpa.viewer.state().at >= 0")


def prompts(opened: Opened) -> list[str]:
    texts: list[str] = opened.page.locator(".card .prompt").all_text_contents()
    return texts


def test_it_opens_with_every_part_and_strings_stay_text(opened: Opened) -> None:
    page = opened.page
    assert page.locator("section:visible").count() == 4
    assert page.locator(".card").count() == 6
    assert sum(HOSTILE.split("\u2028")[0] in text for text in prompts(opened)) == 3
    page.locator("#evaluation .measures").first.wait_for()
    assert page.locator("#evaluation .measures").count() == 2
    assert page.locator("#training figure").count() == 3
    written = page.locator("#evaluation .measures").first
    heads = written.locator("th[scope=col]").all_text_contents()
    row = dict(zip(heads, ["", *written.locator("tbody td").all_text_contents()], strict=True))
    assert "fault" in written.inner_text()
    assert (row["true clips"], row["base"], row["of base"]) == ("0.06250", "0.5000", "80% [60%, 90%]")
    page.locator("#evaluation select").select_option("filtered")
    assert page.locator("#evaluation .measures").count() == 2
    page.locator("#evaluation .together").first.focus()
    page.keyboard.press(" ")
    page.locator("#evaluation .together.playing").wait_for()
    assert page.locator("script[src^='data/']").count() >= 2


def test_winner_and_loser_show_one_frame(opened: Opened) -> None:
    open_first(opened)
    page = opened.page
    page.keyboard.press(" ")
    opened.wait("!gpa.viewer.state().playing")
    page.locator(".viewer input[type=range]").fill("0")
    opened.wait("gpa.viewer.state().at === 0")
    for frame in range(FRAMES):
        opened.wait(f"gpa.viewer.state().at === {frame}")
        assert both_frames(opened) == (frame, frame)
        page.keyboard.press(".")
    opened.wait("gpa.viewer.state().at === 0")
    page.keyboard.press(",")
    opened.wait(f"gpa.viewer.state().at === {FRAMES - 1}")


def test_it_says_where_imported_videos_come_from(opened: Opened) -> None:
    open_first(opened)
    facts = opened.page.locator("dl.facts", has_text="winner from")
    facts.wait_for(state="attached")
    text = facts.text_content()
    for which, kind in enumerate(("winner", "loser")):
        assert f"{kind} from{HOSTILE}{which}.mov; 32 \u00d7 64 pixels, 60 frames a second" in text
    assert "turned by 90°; taken at 8 frames a second; first frame like the one given: 31.5 dB" in text
    assert "samplersteps 4" in text


def test_it_plays_in_step(opened: Opened) -> None:
    open_first(opened)
    page = opened.page
    seen = set()
    for _ in range(12):
        winner, loser = both_frames(opened)
        assert winner == loser
        seen.add(winner)
        page.wait_for_timeout(60)
    assert len(seen) > 1
    page.keyboard.press(" ")
    opened.wait("!gpa.viewer.state().playing")
    at = opened.state()["at"]
    page.wait_for_timeout(400)
    assert opened.state()["at"] == at


def test_filters_and_orders(opened: Opened) -> None:
    page = opened.page
    gaps = [float(text) for text in page.locator(".card footer > span:first-child b").all_text_contents()]
    assert gaps == sorted(gaps, reverse=True)
    page.locator("[name=order]").select_option("narrowest")
    assert prompts(opened)[0].endswith("room 0")
    page.locator("[name=camera]").select_option("tilt")
    assert sorted(text[-6:] for text in prompts(opened)) == ["room 0", "room 3"]
    page.get_by_role("button", name="Reset").click()
    opened.wait("document.querySelectorAll('.card').length === 6")
    page.keyboard.press("/")
    page.keyboard.type("QUIET 2")
    assert [text[-6:] for text in prompts(opened)] == ["room 2"]
    assert page.locator("#pairs .tally").inner_text() == "1 of 6 pairs"
    page.locator("[name=search]").fill("nowhere")
    assert "No pair is left" in page.locator("#pairs .grid").inner_text()


def test_decisions_are_kept_exported_and_applied(opened: Opened, reported: Path, tmp_path: Path) -> None:
    page = opened.page
    open_first(opened)
    first = opened.state()["pair"]
    page.keyboard.press("k")
    opened.wait(f"gpa.viewer.state() && gpa.viewer.state().pair !== {json.dumps(first)}")
    page.keyboard.press("s")
    page.wait_for_timeout(200)
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("d")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("#decision-count").text_content() == "1 kept  1 swapped  1 dropped"
    page.locator("[name=decision]").select_option("none")
    assert page.locator(".card").count() == 3
    with page.expect_download() as download:
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("e")
    file = tmp_path / "decisions.jsonl"
    download.value.save_as(file)
    decided = {one["prompt_id"]: one["decision"] for one in map(json.loads, file.read_text().splitlines())}
    # The widest gap comes first; after a decision the next pair is shown, and its card has the focus later.
    assert decided == {"p0005": "keep", "p0004": "swap", "p0002": "drop"}
    run = Run.open(reported)
    settings = PairSettings(
        rules=PairRules(min_gap=0.0), index_only=True, out=tmp_path / "pairs", decisions=file
    )
    result = run_pair(run, settings, write=False)
    assert result.rows is not None
    rows = {row["prompt_id"]: (row["winner_id"], row["human"]) for row in result.rows.to_pylist()}
    assert rows["p0005"] == ("p0005-c0", "keep")
    assert rows["p0004"] == ("p0004-c1", "swap")
    assert "p0002" not in rows
    assert rows["p0000"] == ("p0000-c0", None)


def test_an_exported_file_can_be_loaded_again(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    file = tmp_path / "d.jsonl"
    # Seen the other way round: the page shows it as a swap of what it shows.
    line = {"prompt_id": "p0001", "winner_id": "p0001-c1", "loser_id": "p0001-c0", "decision": "keep"}
    file.write_text(json.dumps(line))
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load decisions").click()
    chooser.value.set_files(file)
    opened.wait("document.querySelectorAll('.badge[data-decision=swap]').length === 1")
    file.write_text('{"decision": "love"}')
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load decisions").click()
    chooser.value.set_files(file)
    opened.wait("document.getElementById('toast').textContent.includes('no file of decisions')")


def test_a_cloud_turns_with_the_pointer_and_the_keys(opened: Opened) -> None:
    open_first(opened)
    page = opened.page
    page.keyboard.press(" ")
    page.wait_for_timeout(200)
    clouds = page.locator(".cell canvas.cloud")
    assert clouds.count() == 2
    looks = [page.evaluate("[...document.querySelectorAll('canvas.cloud')].map((one) => one.toDataURL())")]
    box = clouds.first.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60, steps=3)
    page.mouse.up()
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(100)
    looks.append(
        page.evaluate("[...document.querySelectorAll('canvas.cloud')].map((one) => one.toDataURL())")
    )
    assert all(before != after for before, after in zip(*looks, strict=True))
    page.keyboard.press("r")
    page.wait_for_timeout(100)
    assert page.evaluate("document.querySelector('canvas.cloud').toDataURL()") == looks[0][0]


def test_help_theme_and_links_to_a_pair(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    open_first(opened)
    link = page.url
    assert "#pair=" in link
    page.keyboard.press("Escape")
    page.goto("about:blank")
    page.goto(link)
    opened.wait("gpa.viewer.state() && gpa.viewer.state().at >= 0")


@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_small_screens(browser: Any, reported: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 780}, has_touch=True, is_mobile=True)
    opened = Opened(context.new_page(), reported / "report" / "index.html")
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".card").first.tap()
    opened.wait("gpa.viewer.state() && gpa.viewer.state().at >= 0")
    assert page.evaluate("document.querySelector('.viewer').scrollWidth") <= width
    assert page.get_by_role("button", name="Keep").is_visible()
    opened.require_clean()
    context.close()


@pytest.fixture(scope="module")
def of_imports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of imported videos of three sizes, without cameras, with a loss below 0."""
    run = mixed_import(tmp_path_factory.mktemp("imported") / "run")
    with_training(run, "weighted", steps=200)
    config = run.path / "train/weighted/config.json"
    config.write_text(json.dumps({"objective": "dpo", "beta": 500, "winner_weight": 0.5}))
    return build_report(run, ReportSettings(reconstructions=0), reward_of=reward_of).page


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_imports_of_several_sizes_are_told_as_what_they_are(
    browser: Any, of_imports: Path, width: int, height: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = Opened(context.new_page(), of_imports)
    page = opened.page
    said = page.locator(".hero").inner_text()
    assert "6 imported videos of 3 sizes: 16\u00d716 to 48\u00d748, 2 to 5 frames at 8 to 24 a second" in said
    assert "1 failed, 1 refused by the import" in said
    page.locator("#overview details").evaluate("one => one.open = true")
    open_first(opened)
    page.locator("#viewer details").evaluate("one => one.open = true")
    assert "rooms/0-0.mov" in page.locator("#viewer .facts").inner_text()
    words = page.locator("body").inner_text().split()
    assert not {"null", "undefined", "NaN"} & {word.strip(".,:;") for word in words}
    # Nothing of cameras where none are known: the two clips stand side by side.
    assert page.locator(".cell").count() == 2
    boxes = [page.locator(f".cell.{kind}").bounding_box() for kind in ("winner", "loser")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    opened.require_clean()
    context.close()


def test_a_loss_below_zero_is_explained_where_it_is_shown(
    browser: Any, opened: Opened, of_imports: Path
) -> None:
    assert "loss below 0" not in opened.page.locator("#training").inner_text()
    other = Opened(browser.new_page(), of_imports)
    assert "A loss below 0 is no fault: the winner weight" in other.page.locator("#training").inner_text()
    other.page.close()


def test_arrows_choose_a_card_before_any_has_the_focus(opened: Opened) -> None:
    page = opened.page
    focused = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    assert page.evaluate(focused) == -1
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == 1
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == 0
    page.keyboard.press("?")
    assert "choose the first pair, move between pairs" in page.locator("#help").inner_text()


def test_export_without_decisions_says_so_and_writes_no_file(opened: Opened) -> None:
    page = opened.page
    downloads: list[Any] = []
    page.on("download", lambda one: downloads.append(one))
    page.keyboard.press("e")
    opened.wait("document.getElementById('toast').textContent.startsWith('Nothing is decided yet')")
    page.wait_for_timeout(300)
    assert downloads == []


def test_a_table_that_is_wider_than_a_phone_shows_and_says_that_it_scrolls(
    browser: Any, reported: Path
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    opened = Opened(context.new_page(), reported / "report" / "index.html")
    wide = opened.page.locator("#evaluation .scroll").first
    wide.scroll_into_view_if_needed()
    opened.wait("document.querySelector('#evaluation .scroll').dataset.more === 'right'")
    assert wide.get_attribute("aria-label") == "Results of heldout; scrolls sideways"
    assert (wide.get_attribute("role"), wide.get_attribute("tabindex")) == ("region", "0")
    wide.evaluate("one => { one.scrollLeft = 1e6; }")
    opened.wait("document.querySelector('#evaluation .scroll').dataset.more === 'left'")
    opened.page.set_viewport_size({"width": 2000, "height": 844})
    opened.wait("document.querySelector('#evaluation .scroll').dataset.more === ''")
    assert wide.get_attribute("role") is None
    opened.require_clean()
    context.close()


def test_pairs_with_a_3d_view_come_first(
    browser: Any, opened: Opened, reported: Path, tmp_path: Path
) -> None:
    assert "reconstructed" not in opened.page.locator("[name=order]").inner_html()
    page = Path(shutil.copytree(reported, tmp_path / "run")) / "report" / "index.html"
    data = page.parent / "data" / "pairs.js"
    head, body = data.read_text("ascii").split(",", 1)
    given = json.loads(body.removesuffix(");\n"))
    # One side of the pair before the last has a view, and both of the last.
    for side, at in (("winner", -1), ("loser", -1), ("loser", -2)):
        given["candidates"]["reconstruction"][given["pairs"][side][at]] = "scene"
    data.write_text(f"{head},{json.dumps(given)});\n", "ascii")
    other = Opened(browser.new_page(), page)
    assert other.page.locator("[name=order]").input_value() == "reconstructed"
    assert [card.locator(".tag").count() for card in other.page.locator(".card").all()] == [1, 1, 0, 0, 0, 0]
    gaps = [
        float(text) for text in other.page.locator(".card footer > span:first-child b").all_text_contents()
    ]
    assert gaps[:2] == sorted(gaps)[:2]
    assert gaps[2:] == sorted(gaps[2:], reverse=True)
    other.require_clean()
    other.page.close()
