"""The table that the demo ends with: what it says of changes that are there, and of those that are not."""

from __future__ import annotations

from typing import Any

from jobs.world.ending import ending


def row(measure: str, base: float, adapter: float, half: float) -> dict[str, Any]:
    change = adapter - base
    interval = {"mean": change, "low": change - half, "high": change + half}
    return {"measure": measure, "base": base, "adapter": adapter, "difference": interval}


def told(*rows: dict[str, Any]) -> list[str]:
    result = {
        "tables": {"aligned": list(rows)},
        "prompts": "32 held-out prompts",
        "contact_sheet": "sheet.png",
    }
    return ending(result, "run/eval/heldout")


def test_six_measures_have_a_row_and_a_sentence_each() -> None:
    lines = told(
        row("fault", 0.5234, 0.2601, 0.05),
        row("error", 0.1323, 0.1131, 0.001),
        row("error_3dcs", 0.002816, 0.002309, 0.00007),
        row("motion", 0.01365, 0.01314, 0.0001),
        row("sharpness", 0.8946, 0.8953, 0.0001),
        row("truth_psnr", 23.4, 23.82, 0.07),
        row("first_frame", 32.68, 32.66, 0.006),
    )
    assert lines[0].endswith("on 32 held-out prompts")
    assert [line.split() for line in lines[3:15:2]] == [
        ["faulty", "videos", "52", "%", "26", "%", "-50", "%"],
        ["geometric", "error", "x1000,", "by", "a", "second", "judge", "2.816", "2.309", "-18", "%"],
        ["camera", "motion", "x1000", "13.65", "13.14", "-4", "%"],
        ["detail", "kept", "in", "later", "frames", "89", "%", "90", "%", "+0", "%"],
        ["likeness", "to", "the", "true", "video", "23.40", "dB", "23.82", "dB", "+0.42", "dB"],
        ["likeness", "to", "the", "first", "frame", "given", "32.68", "dB", "32.66", "dB", "-0.02", "dB"],
    ]
    sentences = [line.strip() for line in lines[4:15:2]]
    assert sentences[0].startswith("of 100 videos, 52 had a fault in their geometry, now 26")
    assert "fit together better" in sentences[1]
    assert sentences[2].startswith("the camera moves 4 % less")
    assert sentences[3].startswith("later frames are as sharp as before")
    assert "came nearer" in sentences[4]
    # Seen by the interval, and by nobody else.
    assert sentences[5].startswith("the first frame is as near as before")
    assert "all 7 measures with their intervals: run/eval/heldout/evaluation.md" in lines[-2]
    assert max(map(len, lines)) <= 110


def test_what_the_interval_does_not_tell_from_nothing_is_no_change() -> None:
    lines = told(row("fault", 0.6, 0.5, 0.2), row("error_3dcs", 0.003, 0.002, 0.002))
    assert lines[4].endswith("60 had a fault in their geometry, now 50, says a referee that no reward saw: "
                             "no change to speak of")  # fmt: skip
    assert "no change to speak of" in lines[6]


def test_what_became_worse_is_said_to_be_worse() -> None:
    lines = told(
        row("error_3dcs", 0.002, 0.003, 0.0001),
        row("motion", 0.01, 0.012, 0.0001),
        row("sharpness", 0.9, 0.45, 0.01),
        row("truth_psnr", 23.0, 22.0, 0.1),
    )
    assert "fit together worse" in lines[4]
    assert lines[6].strip() == "the camera moves 20 % more"
    assert lines[8].strip().startswith("later frames lost 50 % of their detail")
    assert "went away" in lines[10]
