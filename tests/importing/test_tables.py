"""Tables as spreadsheets and pandas leave them: taken in where they mean one thing, else a cell is named."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.importing.manifest import Entry, manifest_entries
from pipeline.importing.tables import _Lines
from storage.errors import UserError
from storage.tables.records import Reject

PATHS = ["0.mp4", "1.mp4"]
FRAME = pd.DataFrame({"prompt": ["a hall, wide", "a room"], "seed": [0, 1], "path": PATHS})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in PATHS:
        (tmp_path / name).touch()
    return tmp_path


def listed(path: Path, data: str | bytes | None = None) -> list[Entry | Reject]:
    if data is not None:
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(manifest_entries(path, allow_outside=False))


def good(found: list[Entry | Reject]) -> list[tuple[str, int, str]]:
    assert all(isinstance(one, Entry) for one in found), found
    return [(one.text, one.seed, one.path.name) for one in found if isinstance(one, Entry)]


EXPECTED = [("a hall, wide", 0, "0.mp4"), ("a room", 1, "1.mp4")]
QUOTED = 'prompt,seed,path\n"a hall, wide",0,0.mp4\na room,1,1.mp4\n'
PLAIN = "prompt{0}seed{0}path\na hall, wide{0}0{0}0.mp4\na room{0}1{0}1.mp4\n"
WRITTEN: dict[str, str | bytes] = {
    "plain": QUOTED,
    "spaces": 'prompt, seed, path\n"a hall, wide", 0, 0.mp4\na room , 1 , 1.mp4 \n',
    "spaces around quotes": 'prompt , "seed" ,\tpath\n "a hall, wide" ,\t"0" , "0.mp4" \r\n'
    '\t"a room"\t, 1 ,"1.mp4"\t',
    "spaces around quotes and tabs": ' "prompt" \t seed\t"path" \n"a hall, wide" \t 0 \t"0.mp4"\n'
    "a room\t1\t 1.mp4\n",
    "semicolons": PLAIN.format(";"),
    "tabs": PLAIN.format("\t"),
    "bars": PLAIN.format("|"),
    "excel": b"\xef\xbb\xbf" + PLAIN.format(";").replace("\n", "\r\n").encode(),
    "excel says its delimiter": "sep=;\r\n" + PLAIN.format(";"),
    "index": FRAME.to_csv(),
    "index written twice": pd.read_csv(io.StringIO(FRAME.to_csv())).to_csv(),
    "floats": FRAME.astype({"seed": float}).to_csv(index=False),
    "delimiters at the end": "\n".join(line + "," for line in QUOTED.splitlines()) + "\n,,,\n,,,\n",
    "other columns empty": QUOTED.replace("path\n", "path,scene_id,first_frame,metadata,split\n")
    .replace("0.mp4\n", "0.mp4,nan,None,<NA>,NaN\n")
    .replace("1.mp4\n", "1.mp4,,null,#N/A,N/A\n"),
    "na of pandas": FRAME.assign(split=[None, float("nan")]).to_csv(index=False, na_rep="nan"),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_a_csv_file_of_any_writer_is_the_same_table(place: Path, what: str) -> None:
    found = listed(place / "list.csv", WRITTEN[what])
    assert good(found) == EXPECTED
    assert all(one.scene_id is None and one.metadata == {} for one in found if isinstance(one, Entry))
    if what == "tabs":
        assert good(listed(place / "list.tsv", WRITTEN[what])) == EXPECTED


@given(
    cells=st.lists(
        st.tuples(st.text(alphabet=' a",\n\t', max_size=12), st.sampled_from(["", " ", "  \t"]).map(str)),
        min_size=1,
        max_size=6,
    )
)
def test_white_space_around_quotes_changes_no_cell(cells: list[tuple[str, str]]) -> None:
    quoted = [space + '"' + cell.replace('"', '""') + '"' + space for cell, space in cells]
    lines = io.StringIO(",".join(quoted) + "\n", newline="")
    assert list(csv.reader(_Lines(lines, ","), strict=True)) == [[cell for cell, _ in cells]]


def test_lines_are_those_of_the_file_where_a_delimiter_is_said(place: Path) -> None:
    found = listed(place / "list.csv", "sep=;\nprompt;seed;path\na hall;0;0.mp4\na hall;x;1.mp4\n")
    assert [one.where if isinstance(one, Entry) else one.id for one in found] == ["list.csv:3", "list.csv:4"]


KINDS: dict[str, dict[str, Any]] = {
    "int8": {"seed": pa.array([0, 1], pa.int8())},
    "uint64": {"seed": pa.array([0, 1], pa.uint64())},
    "float": {"seed": pa.array([0.0, 1.0])},
    "float16": {"seed": pa.array([0.0, 1.0], pa.float32()).cast(pa.float16())},
    "decimal": {"seed": pa.array([decimal.Decimal(0), decimal.Decimal(1)], pa.decimal128(20, 2))},
    "text": {"seed": pa.array(["0", "1.0"])},
    "large strings": {"prompt": pa.array(["a hall, wide", "a room"], pa.large_string())},
    "dictionary": {"prompt": pa.array(["a hall, wide", "a room"]).dictionary_encode()},
    "bytes": {"prompt": pa.array([b"a hall, wide", b"a room"])},
    "nan": {"scene_id": pa.array([math.nan, math.nan]), "split": pa.array([None, None], pa.string())},
    "index": {"__index_level_0__": pa.array([5, 6]), "Unnamed: 0": pa.array([0, 1])},
}


@pytest.mark.parametrize("what", KINDS)
def test_a_parquet_file_of_other_types_is_the_same_table(place: Path, what: str) -> None:
    columns = {name: pa.array(FRAME[name].tolist()) for name in FRAME} | KINDS[what]
    pq.write_table(pa.table(columns), place / "list.parquet")
    assert good(listed(place / "list.parquet")) == EXPECTED


@pytest.mark.parametrize(
    "write",
    [
        lambda frame, path: path.write_text(frame.to_json(orient="records", lines=True)),
        lambda frame, path: path.write_text(
            "\n".join(json.dumps(row) for row in frame.to_dict(orient="records"))
        ),
    ],
)
def test_json_lines_with_nan_where_nothing_is(
    place: Path, write: Callable[[pd.DataFrame, Path], Any]
) -> None:
    gaps = FRAME.astype({"seed": float}).assign(scene_id=["hall", math.nan], split=[math.nan, "val"])
    write(gaps, place / "list.jsonl")
    found = listed(place / "list.jsonl")
    assert good(found) == EXPECTED
    assert [one.scene_id for one in found if isinstance(one, Entry)] == ["hall", None]
    assert [one.split for one in found if isinstance(one, Entry)] == [None, "val"]


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.float64(), pa.decimal128(28, 1)])
def test_a_scene_that_has_a_number_is_called_by_it(place: Path, kind: pa.DataType) -> None:
    scenes = pa.array([3, None], pa.int64()).cast(kind)
    columns = {name: pa.array(FRAME[name].tolist()) for name in FRAME} | {"scene_id": scenes}
    pq.write_table(pa.table(columns), place / "list.parquet")
    assert [one.scene_id for one in listed(place / "list.parquet") if isinstance(one, Entry)] == ["3", None]


@pytest.mark.parametrize(
    ("scene", "called"), [("1", "1"), ("1.0", "1"), ("-0.0", "0"), ("1.50", "1.50"), ("v1.0", "v1.0")]
)
def test_a_scene_is_called_alike_in_every_kind_of_table(place: Path, scene: str, called: str) -> None:
    def scenes(name: str, data: str | None = None) -> list[str | None]:
        return [one.scene_id for one in listed(place / name, data) if isinstance(one, Entry)]

    assert scenes("a.csv", f"prompt,seed,path,scene_id\na hall,0,0.mp4,{scene}\n") == [called]
    row = {"prompt": "a hall", "seed": 0, "path": "0.mp4"}
    if scene in {"1", "1.0", "-0.0"}:
        number = json.loads(scene)
        assert scenes("a.jsonl", json.dumps(row | {"scene_id": number})) == [called]
        pq.write_table(pa.Table.from_pylist([row | {"scene_id": number}]), place / "a.parquet")
        assert scenes("a.parquet") == [called]
    # Where text and numbers are told apart, text is what it says.
    assert scenes("b.jsonl", json.dumps(row | {"scene_id": scene})) == [scene]
    pq.write_table(pa.Table.from_pylist([row | {"scene_id": scene}]), place / "b.parquet")
    assert scenes("b.parquet") == [scene]


CELLS: dict[str, tuple[str, str, str]] = {
    "a seed that is nothing": (
        "a hall,nan,1.mp4",
        "missing-field",
        "seed is 'nan', which tables write where nothing is: fill the cell",
    ),
    "a prompt that is nothing": ("None,1,1.mp4", "missing-field", "prompt is 'None', which tables write"),
    "a seed with a fraction": ("a hall,1.5,1.mp4", "bad-seed", "seed '1.5' is no integer from 0"),
    "a seed that lost digits": (
        "a hall,9007199254740994.0,1.mp4",
        "bad-seed",
        "seed 9007199254740994 went through a floating point number, which keeps 53 bits of it",
    ),
    "a comma too many": ("a hall, wide,1,1.mp4", "malformed", "has 4 cells, the header has 3: quote cells"),
    "a path of nothing": ("a hall,1,NaN", "missing-field", "path is 'NaN'"),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_cell_that_cannot_be_is_named_and_costs_its_row(place: Path, what: str) -> None:
    row, rule, reason = CELLS[what]
    first, bad = listed(place / "list.csv", f'prompt,seed,path\n"a hall, wide",0,0.mp4\n{row}\n')
    assert good([first]) == EXPECTED[:1]
    assert isinstance(bad, Reject)
    assert (bad.id, bad.rule) == ("list.csv:3", rule)
    assert reason in bad.detail


@pytest.mark.parametrize(
    ("values", "rule", "reason"),
    [
        ({"seed": 2.0**60}, "bad-seed", "went through a floating point number"),
        ({"seed": 1.5}, "bad-seed", "seed 1.5 is no integer"),
        ({"seed": math.inf}, "bad-seed", "seed inf is no integer"),
        ({"seed": math.nan}, "missing-field", "seed is nan, which tables write"),
        ({"seed": decimal.Decimal("1.5")}, "bad-seed", "is no integer"),
        ({"seed": datetime.date(2020, 1, 1)}, "bad-seed", "is no integer"),
        ({"prompt": 5}, "bad-field", "prompt must be text, got int"),
        ({"scene_id": 1.5}, "bad-field", "scene_id must be text, got float"),
        ({"scene_id": True}, "bad-field", "scene_id must be text, got bool"),
    ],
)
def test_a_typed_cell_that_cannot_be_is_named(
    place: Path, values: dict[str, Any], rule: str, reason: str
) -> None:
    row = {"prompt": "a hall", "seed": 1, "path": "1.mp4"} | values
    pq.write_table(pa.Table.from_pylist([row]), place / "list.parquet")
    (bad,) = listed(place / "list.parquet")
    assert isinstance(bad, Reject)
    assert (bad.id, bad.rule) == ("list.parquet:1", rule)
    assert reason in bad.detail


def test_utf_16_and_a_missing_column_end_the_command(place: Path) -> None:
    for data, message in (
        (QUOTED.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (QUOTED.encode("utf-16-le"), "is UTF-16 text"),
        (b"prompt;path\n", "has no column 'seed', its columns are prompt, path; required are prompt, seed"),
        (b"prompt;seed;path;pth\n", "has the unknown column 'pth'"),
    ):
        with pytest.raises(UserError, match=message):
            listed(place / "list.csv", data)
