"""Manifests that are malformed in part or as a whole: one reason each, nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.importing.import_videos import dry_run, run_import
from storage.errors import UserError
from storage.run import Run
from tests.importing.clips import clip, rejected, rows, settings
from tests.importing.hostile import PLACE, manifest, outcome, zipped

LINES: dict[str, tuple[bytes, str, str]] = {
    "malformed": (b'{"prompt": ', "malformed", "is malformed JSON"),
    "no object": (b"[1, 2]", "malformed", "is a JSON list, no object"),
    "not utf-8": (b'{"prompt": "pr\xe8s", "seed": 1, "path": "x"}', "not-utf-8", "is not UTF-8 text"),
    "surrogate": (rb'{"prompt": "\ud800", "seed": 1, "path": "x"}', "not-utf-8", "prompt is not UTF-8"),
    "nul": (rb'{"prompt": "a", "seed": 1, "path": "a\u0000.mp4"}', "bad-path", "holds a NUL byte"),
    "nul in a prompt": (rb'{"prompt": "a\u0000b", "seed": 1, "path": "x"}', "bad-text", "holds a NUL byte"),
    "deep": (b"[" * 100_000, "malformed", "is malformed JSON"),
    "long": (b'{"prompt": "' + b"x" * 2**20 + b'"}', "malformed", "is a line of over 1048576 bytes"),
    "no seed": (b'{"prompt": "a", "path": "x"}', "missing-field", "has no seed"),
    "seed of a kind": (b'{"prompt": "a", "seed": true, "path": "x"}', "bad-seed", "seed True is no"),
    "huge seed": (b'{"prompt": "a", "seed": 1e300, "path": "x"}', "bad-seed", "is no integer"),
    "number as path": (b'{"prompt": "a", "seed": 1, "path": 7}', "bad-field", "path must be text, got int"),
    "unknown": (b'{"prompt": "a", "seed": 1, "pth": "x"}', "unknown-field", "the unknown field 'pth'"),
    "split": (b'{"prompt": "a", "seed": 1, "path": "x", "split": "dev"}', "bad-field", "one of train, val"),
    "metadata": (b'{"prompt": "a", "seed": 1, "path": "x", "metadata": [1]}', "bad-field", "a JSON object"),
    "not finite": (
        b'{"prompt": "a", "seed": 1, "path": "x", "metadata": {"a": NaN}}',
        "bad-field",
        "metadata is no plain JSON",
    ),
    "blank": (b'{"prompt": "  ", "seed": 1, "path": "x"}', "bad-text", "prompt is empty"),
    "long prompt": (
        b'{"prompt": "' + b"x" * 30_000 + b'", "seed": 1, "path": "x"}',
        "bad-text",
        "has 30000 characters",
    ),
    "missing": (b'{"prompt": "a", "seed": 1, "path": "none.mp4"}', "missing", "does not exist"),
    "no image": (
        b'{"prompt": "a", "seed": 1, "path": "a quiet hall 0/0.mp4", "first_frame": "list.jsonl"}',
        "first-frame",
        "cannot be read as an image",
    ),
}


@pytest.mark.parametrize("what", LINES)
def test_a_bad_line_of_json_costs_itself(run: Run, source: Path, what: str) -> None:
    line, rule, reason = LINES[what]
    path = manifest(source)
    path.write_bytes(line + b"\n\n" + path.read_bytes() + b"\n")
    found = outcome(run, path, "list.jsonl:1")
    assert found[0] == rule
    assert reason in found[1]


GOOD = f"a hall,0,{PLACE}/0.mp4\n".encode()
CELLS: dict[str, tuple[bytes, str, str]] = {
    "nul": (b"a hall,1,a\0b.mp4\n", "malformed", "holds a NUL byte in path"),
    "short": (b"a hall,1\n", "malformed", "has 2 cells, the header has 3: quote cells that hold ','"),
    "long": (b"a hall, with a door,1,x.mp4\n", "malformed", "has 4 cells"),
    "not utf-8": (b"pr\xe8s,1,x.mp4\n", "not-utf-8", "prompt is not UTF-8"),
    "empty": (b",1,x.mp4\n", "missing-field", "has no prompt"),
    "text behind a quote": (
        b'"a hall" b,1,x.mp4\n',
        "malformed",
        "is malformed CSV (',' expected after '\"')",
    ),
    "an open quote that another closes": (
        b'"a hall,1,x.mp4\na hall,2,y.mp4\n"a hall, wide",3,z.mp4\n',
        "malformed",
        "lines 2 to 4 were not read: correct its quotes",
    ),
    "a cell beyond all limits": (
        b'"' + b"x" * 2**18 + b'",1,x.mp4\n',
        "malformed",
        "larger than field limit",
    ),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_bad_row_of_csv_costs_itself(run: Run, source: Path, what: str) -> None:
    line, rule, reason = CELLS[what]
    path = source / "list.csv"
    path.write_bytes(b"prompt,seed,path\n" + line + GOOD)
    found = outcome(run, path, "list.csv:2")
    assert found[0] == rule
    assert reason in found[1]


def test_an_open_quote_says_what_was_not_read(run: Run, source: Path) -> None:
    path = source / "list.csv"
    path.write_bytes(b"prompt,seed,path\n" + GOOD + b'"a hall,1,x.mp4\na hall,2,y.mp4\n')
    rule, reason = outcome(run, path, "list.csv:3")
    assert rule == "malformed"
    assert "lines 3 to 4 were not read: correct its quotes" in reason


WHOLE: dict[str, tuple[str, bytes, str]] = {
    "missing column": ("a.csv", b"prompt,path\na,b\n", "has no column 'seed', its columns are prompt, path"),
    "unknown column": ("a.csv", b"prompt,seed,path,model\n", "has the unknown column 'model'; required"),
    "column twice": ("a.csv", b"prompt,seed,path,path\n", "has a column twice"),
    "nothing": ("a.csv", b"", "has no column 'prompt', its columns are none"),
    "utf-16": ("a.csv", "prompt,seed,path\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    "no parquet": ("a.parquet", b"PAR1 or not", "is not a readable Parquet file"),
    "zip as parquet": ("a.parquet", zipped(), "is not a readable Parquet file"),
    "no rows": ("a.jsonl", b"\n\n", "holds no videos"),
    "text": ("a.txt", b"a", "is no manifest that is known: give a folder, or one of .jsonl, .csv, .tsv"),
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_manifest_that_says_nothing_is_one_error(run: Run, source: Path, what: str) -> None:
    name, data, message = WHOLE[what]
    (source / name).write_bytes(data)
    with pytest.raises(UserError, match="(?s)" + message.replace("(", r"\(")):
        run_import(run, settings(source / name))
    assert not rows(run)


def test_parquet_rows_that_are_null_or_not_utf_8_cost_themselves(run: Run, source: Path) -> None:
    raw = pa.array([b"a hall", b"pr\xe8s", None], pa.binary())
    prompts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    paths = pa.array([f"{PLACE}/0.mp4"] * 3)
    path = source / "list.parquet"
    pq.write_table(pa.table({"prompt": prompts, "seed": [0.0, 1.0, None], "path": paths}), path)
    summary = run_import(run, settings(path))
    assert (summary.done, summary.failed) == (1, 2)
    found = rejected(run)
    assert found["list.parquet:2"][0] == "not-utf-8"
    assert found["list.parquet:3"][0] == "missing-field"
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(UserError, match="has no column 'prompt'"):
        run_import(run, settings(path))


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    junk=st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.dictionaries(
                st.sampled_from(
                    ["prompt", "seed", "path", "first_frame", "scene_id", "split", "metadata", "x"]
                ),
                st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=6,
    )
)
def test_whatever_stands_between_them_two_good_lines_are_found(
    junk: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("videos")
    clip(source / PLACE / "0.mp4", count=2)
    lines = [
        json.dumps({"prompt": text, "seed": 2**60, "path": f"{PLACE}/0.mp4"}).encode()
        for text in ("first good hall", "last good hall")
    ]
    between = [line.replace(b"\n", b" ") for line in junk]
    path = source / "list.jsonl"
    path.write_bytes(b"\n".join([lines[0], *between, lines[1]]))
    plan = dry_run(None, settings(path))
    assert {"first good hall", "last good hall"} <= {task.prompt.text for task in plan.tasks}
    named = {one.id for one in plan.rejects}
    blank = sum(not line.strip(b" \t\r\n\xef\xbb\xbf") for line in between)
    assert len(named) + plan.wanted == 2 + len(between) - blank
