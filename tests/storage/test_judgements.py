"""What judges measured is read back as written, by version; the table of clips is replaced whole."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.judgements import (
    EvaluatedClip,
    read_clips,
    read_judgements,
    write_clips,
    write_judgements,
)
from storage.run import Run
from storage.sql.views import fetch, session
from storage.tables.records import CLIP_MEASURES
from storage.tables.shards import shard_files
from tests.storage.builders import judgement

WORDS = st.text("abcdefgh_", min_size=1, max_size=6)
VALUES = st.dictionaries(
    st.one_of(st.sampled_from(CLIP_MEASURES), WORDS),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    max_size=6,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": ""}, "Judgement.judge must be a non-empty string, got ''"),
        ({"names": ["a", "a"], "values": [1.0, 2.0]}, r"names must be different .* got \['a', 'a'\]"),
        ({"values": []}, "one for each value"),
        ({"values": [float("nan")]}, "Judgement.values must be finite or None, got nan: use None"),
    ],
)
def test_a_judgement_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judgement(**changes)


@settings(max_examples=20, deadline=None)
@given(rows=st.dictionaries(st.tuples(WORDS, WORDS, st.sampled_from("123")), VALUES, min_size=1, max_size=6))
def test_values_come_back_by_candidate_and_judge_of_the_versions_asked_for(
    rows: dict[tuple[str, str, str], dict[str, float | None]],
) -> None:
    with TemporaryDirectory() as folder:
        run = Run.create_or_open(Path(folder) / "run")
        for (candidate, judge, version), values in rows.items():
            one = judgement(
                candidate_id=candidate,
                judge=judge,
                judge_version=version,
                names=list(values),
                values=list(values.values()),
            )
            write_judgements(run, [one])
            write_judgements(run, [one])  # twice is once
        wanted = {judge: "2" for _, judge, _ in rows}
        expected: dict[str, dict[str, dict[str, float | None]]] = {}
        for (candidate, judge, version), values in rows.items():
            if version == "2":
                expected.setdefault(candidate, {})[judge] = values
        assert read_judgements(run, wanted) == expected


@settings(max_examples=20, deadline=None)
@given(
    tables=st.lists(
        st.dictionaries(st.tuples(WORDS, WORDS), VALUES, min_size=1, max_size=5), min_size=1, max_size=3
    )
)
def test_the_last_table_is_the_only_one_and_loses_no_measure(
    tables: list[dict[tuple[str, str], dict[str, float | None]]],
) -> None:
    with TemporaryDirectory() as folder:
        run = Run.create_or_open(Path(folder) / "run")
        for table in tables:
            rows = [
                EvaluatedClip(
                    model_name=name,
                    candidate_id=candidate,
                    prompt_id="p",
                    seed=2**62 - 1,
                    adapter=None if name == "base" else "a",
                    adapter_weight=None if name == "base" else 0.5,
                    judges={"eye": "1"},
                    measures=values,
                )
                for (name, candidate), values in table.items()
            ]
            path = write_clips(run, rows)
            assert write_clips(run, rows[::-1]) == path
        assert shard_files(run.shard_dir("clips")) == [path]
        found = {(one.model_name, one.candidate_id): one for one in read_clips(run)}
        assert found.keys() == tables[-1].keys()
        for key, values in tables[-1].items():
            assert {k: v for k, v in found[key].measures.items() if k in values} == values
            assert all(v is None for k, v in found[key].measures.items() if k not in values)


def test_the_tables_can_be_asked_in_sql(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    write_judgements(run, [judgement(), judgement(candidate_id="c1", values=[None])])
    with session(run, "judgements", "clips") as connection:
        assert fetch(connection, "SELECT sum(values[1]) FROM judgements") == [(0.5,)]
        assert fetch(connection, "SELECT count(*) FROM clips WHERE fault > 0.5") == [(0,)]
