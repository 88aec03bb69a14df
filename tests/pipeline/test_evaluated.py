"""What `--adapter [NAME=]DIR[@WEIGHT]` means, and which names a table can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.adapters import NamedAdapter, groups, require_different
from storage.errors import UserError

# (text, name, folder, weight) where no such folder exists.
SPELLINGS = [
    ("runs/a", "aligned", "runs/a", 1.0),
    ("ours=runs/a", "ours", "runs/a", 1.0),
    ("ours=runs/a@0.5", "ours", "runs/a", 0.5),
    ("ours=runs/a@-.25", "ours", "runs/a", -0.25),
    ("ours/0=runs/a@2", "ours/0", "runs/a", 2.0),
    ("ours=runs/b=c@d@1e-1", "ours", "runs/b=c@d", 0.1),
    ("./b=c/a", "aligned", "./b=c/a", 1.0),
    ("/data/b=c/a@half", "aligned", "/data/b=c/a@half", 1.0),
    ("ours=a@nan", "ours", "a@nan", 1.0),
    ("a b=c", "aligned", "a b=c", 1.0),
]


@pytest.mark.parametrize(("text", "name", "folder", "weight"), SPELLINGS)
def test_a_spelling_is_read(text: str, name: str, folder: str, weight: float) -> None:
    assert NamedAdapter.parse(text) == NamedAdapter(name=name, path=Path(folder), weight=weight)


@pytest.mark.parametrize("folder", ["a=b", "runs/a=b@0.5", "c@0.5"])
def test_a_folder_that_exists_is_taken_as_it_is(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir(parents=True)
    assert NamedAdapter.parse(folder) == NamedAdapter(name="aligned", path=Path(folder))
    assert NamedAdapter.parse(f"ours={folder}") == NamedAdapter(name="ours", path=Path(folder))
    weighted = NamedAdapter(name="ours", path=Path(folder), weight=0.25)
    assert NamedAdapter.parse(f"ours={folder}@0.25") == weighted


@given(
    name=st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,5}(/[A-Za-z0-9_.-]{1,3})?", fullmatch=True).filter(
        lambda name: name != "base"
    ),
    folder=st.text("ab/=@.0", min_size=1, max_size=12),
    weight=st.floats(-4, 4).filter(lambda weight: weight != 1),
)
def test_a_full_spelling_says_what_it_says(name: str, folder: str, weight: float) -> None:
    found = NamedAdapter.parse(f"{name}={folder}@{weight!r}")
    if not Path(folder).is_dir():
        assert found == NamedAdapter(name=name, path=Path(folder), weight=weight)


def adapters(*texts: str) -> list[NamedAdapter]:
    return [NamedAdapter.parse(text) for text in texts]


def test_weights_make_models_of_their_own_and_trainings_a_group() -> None:
    found = adapters("ours/0=a", "ours/1=b", "ours/0=a@0.5", "ours/1=b@0.5", "theirs=c@0.5", "theirs=c")
    require_different(found)
    assert [one.label for one in found] == [
        "ours/0", "ours/1", "ours/0@0.5", "ours/1@0.5", "theirs@0.5", "theirs",
    ]  # fmt: skip
    assert groups(found) == {"ours": ["ours/0", "ours/1"], "ours@0.5": ["ours/0@0.5", "ours/1@0.5"]}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "nothing to compare with the base model: give an adapter"),
        (["a", "b"], "two adapters have the same name in aligned, aligned: give NAME=DIR"),
        (["ours=a", "ours/0=b"], "two adapters have the same name in ours, ours/0, ours"),
    ],
)
def test_names_that_collide_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_different(adapters(*texts))


@pytest.mark.parametrize("name", ["base", "truth"])
def test_the_names_of_base_and_true_clips_are_taken(name: str) -> None:
    with pytest.raises(
        UserError, match=f"adapter name '{name}' must be a word other than 'base' and 'truth'"
    ):
        NamedAdapter.parse(f"{name}=a")
