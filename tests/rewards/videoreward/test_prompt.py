"""The prompt: one string of a module that is not run, known by its hash, and kept with the weights."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.errors import RewardError
from rewards.videoreward.settings import PUBLISHED_PROMPT, read_config, read_prompt
from rewards.videoreward.weights import convert, find_weights
from tests.rewards.videoreward.tiny import PROMPT, settings, write_base, write_prompt, write_published

FETCH = (
    "curl -fLO https://raw.githubusercontent.com/KwaiVGI/VideoAlign/219ab9d[0-9a-f]{33}/prompt_template.py"
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("videoreward")
    published, base = write_published(place / "published"), write_base(place / "base")
    return convert(str(published), str(base), write_prompt(place), place / "converted")


@pytest.fixture
def converted(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "converted")


@given(
    words=st.lists(st.text(st.characters(exclude_characters="{}\r", codec="utf-8")), min_size=5, max_size=5)
)
def test_a_module_and_a_text_file_give_the_same_words(words: list[str]) -> None:
    marks = ("<|VQ_reward|>", "<|MQ_reward|>", "{text_prompt}", "<|TA_reward|>", "")
    template = "".join(one + mark for one, mark in zip(words, marks, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        module, text = Path(folder) / "any.py", Path(folder) / "any.txt"
        module.write_text(f"DETAILED_PROMPT_WITH_SPECIAL_TOKEN = {template!r}\n", encoding="utf-8")
        text.write_bytes(template.encode())
        assert read_prompt(module, sha256(template)) == template
        assert read_prompt(text, sha256(template)) == template


def test_line_ends_of_a_checkout_do_not_matter(tmp_path: Path) -> None:
    source = f'# é\r\nDETAILED_PROMPT_WITH_SPECIAL_TOKEN = """{PROMPT}"""\r\n'.replace("\n", "\r\n")
    (tmp_path / "theirs.py").write_bytes(source.replace("\r\r", "\r").encode())
    assert read_prompt(tmp_path / "theirs.py", sha256(PROMPT)) == PROMPT


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("DETAILED_PROMPT = 'other'", "it assigns no string to DETAILED_PROMPT_WITH_SPECIAL_TOKEN"),
        ("DETAILED_PROMPT_WITH_SPECIAL_TOKEN = f'{1}'", "it assigns no string to"),
        ("DETAILED_PROMPT_WITH_SPECIAL_TOKEN = 'a' + 'b'", "it assigns no string to"),
        ("def f(:", "invalid syntax"),
        ("\0", "null bytes"),
    ],
)
def test_a_module_without_the_string_is_refused(tmp_path: Path, source: str, why: str) -> None:
    path = tmp_path / "prompt_template.py"
    path.write_text(source)
    with pytest.raises(
        RewardError, match=rf"holds no prompt \(.*{why}.*\); fetch the published one: {FETCH}$"
    ):
        read_prompt(path, sha256(PROMPT))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=f"prompt.txt is not there; fetch the published prompt: {FETCH}$"):
        read_prompt(tmp_path / "prompt.txt", PUBLISHED_PROMPT)
    with pytest.raises(RewardError, match=r"holds no prompt \(.*directory"):
        read_prompt(tmp_path, PUBLISHED_PROMPT)
    (tmp_path / "prompt.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RewardError, match=r"holds no prompt \(.*codec can't decode"):
        read_prompt(tmp_path / "prompt.txt", PUBLISHED_PROMPT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (PROMPT.replace("<|MQ_reward|>", ""), r"must have <\|MQ_reward\|> once"),
        (PROMPT + "<|VQ_reward|>", r"must have <\|VQ_reward\|> once"),
        (PROMPT.replace("{text_prompt}", ""), "must have {text_prompt} once"),
        (PROMPT.replace("{text_prompt}", "{text_prompt.__class__}"), "must have {text_prompt} once"),
        (PROMPT + "{", "is no template"),
    ],
)
def test_words_without_their_marks_are_refused(tmp_path: Path, changed: str, message: str) -> None:
    (tmp_path / "prompt.txt").write_text(changed, encoding="utf-8")
    with pytest.raises(RewardError, match=message):
        read_prompt(tmp_path / "prompt.txt", sha256(changed))


def test_a_checkpoint_that_names_no_prompt_wants_the_published_one(converted: Path) -> None:
    plain = settings()
    del plain["data_config"]["prompt_sha256"]
    (converted / "model_config.json").write_text(json.dumps(plain))
    # SHA-256 of the string in KwaiVGI/VideoAlign (219ab9d).
    digest = "fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700"
    assert read_config(converted / "model_config.json").prompt_sha256 == digest
    says = rf"is not the prompt of these weights \(SHA-256 {sha256(PROMPT)}, not {digest}\)"
    with pytest.raises(RewardError, match=f"{says}.* comes with: {FETCH}$"):
        find_weights(str(converted))
    plain["data_config"]["prompt_sha256"] = "ours"
    (converted / "model_config.json").write_text(json.dumps(plain))
    with pytest.raises(RewardError, match="prompt_sha256 must be 64 hexadecimal digits, got 'ours'"):
        find_weights(str(converted))


def test_a_folder_holds_its_prompt_and_its_version_follows_it(converted: Path) -> None:
    path, before = converted / "prompt.txt", find_weights(str(converted)).revision
    assert path.read_bytes() == PROMPT.encode()
    other = PROMPT.replace("please", "now")
    path.write_text(other, encoding="utf-8")
    with pytest.raises(RewardError, match=r"prompt.txt is not the prompt of these weights"):
        find_weights(str(converted))
    changed = settings()
    changed["data_config"]["prompt_sha256"] = sha256(other)
    (converted / "model_config.json").write_text(json.dumps(changed))
    assert find_weights(str(converted)).revision != before
    path.unlink()
    with pytest.raises(RewardError, match=f"has no prompt.txt; make safe weights.*{FETCH} && gpa convert"):
        find_weights(str(converted))


def test_a_conversion_refuses_another_prompt_and_writes_nothing(tmp_path: Path) -> None:
    published, base = write_published(tmp_path / "published"), write_base(tmp_path / "base")
    (tmp_path / "words.txt").write_text(PROMPT + "\n", encoding="utf-8")
    with pytest.raises(RewardError, match=r"words.txt is not the prompt of these weights"):
        convert(str(published), str(base), tmp_path / "words.txt", tmp_path / "out" / "here")
    assert not (tmp_path / "out").exists()
