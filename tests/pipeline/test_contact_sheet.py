"""A contact sheet shows what it is given, where it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.contact_sheet import Strip, shows, write_contact_sheet
from storage.media.pictures import read_image


def test_frames_stand_in_order_beside_their_label(tmp_path: Path) -> None:
    shades = np.array([10, 60, 110, 160, 210], dtype=np.uint8)
    frames = np.broadcast_to(shades[:, None, None, None], (5, 64, 64, 3)).copy()
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, [("a prompt", [Strip(label="base", frames_THW3=frames)])])
    sheet = read_image(path)
    middle = sheet[-68]
    seen = [int(middle[150 + 132 * column + 64, 0]) for column in range(5)]
    assert seen == shades.tolist()


def test_a_sheet_without_clips_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one clip"):
        write_contact_sheet(tmp_path / "sheet.png", [("nothing", [])])


def test_a_sheet_says_of_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    assert not shows(path, "one")
    frames = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    write_contact_sheet(path, [("a prompt", [Strip(label="base", frames_THW3=frames)])], "one")
    assert shows(path, "one")
    assert not shows(path, "another")
    path.write_bytes(path.read_bytes()[:-10])
    assert not shows(path, "one")
