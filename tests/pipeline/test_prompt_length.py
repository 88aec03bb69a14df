"""Prompts whose end a model does not see are counted as its own pipeline cuts them, and told or refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.models import resolve_model
from pipeline.sampling.prompt_length import _as_wan, _at_most, long_prompts
from pipeline.sampling.prompts import PromptItem
from pipeline.sampling.sample import plan_sample, run_sample
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from storage.errors import UserError
from storage.run import Run
from storage.tables.records import Prompt
from tests import tiny_wan
from tests.jobs.test_cli import gpa, tiny_options
from tests.pipeline import tiny
from tests.pipeline.tiny import SAMPLER, TOKENS

WORDS = ["a", "quiet", "hall", "room", "camera", "motion", "pan"]


def row(text: str) -> Prompt:
    return PromptItem(text=text).record(None)


@pytest.fixture(scope="module")
def with_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-video model whose tokenizer is a T5's, of pieces of words, with an end mark."""
    import sentencepiece
    from transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    corpus = [" ".join(WORDS[start:] + WORDS[:start]) for start in range(len(WORDS))] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    words = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    model = tiny.build(folder / "model", text_only=True, tokens=words)
    index = json.loads((model / "model_index.json").read_text())
    assert index["tokenizer"][1].startswith("T5Tokenizer")
    return model


@pytest.mark.parametrize("kind", ["words", "t5"])
def test_a_prompt_is_long_when_more_of_it_changes_no_embedding(
    kind: str, with_t5: Path, tmp_path: Path
) -> None:
    model = resolve_model(str(with_t5 if kind == "t5" else tiny.build(tmp_path / "m", text_only=True)))
    sampler = make_sampler(model, SamplerSettings(**SAMPLER))
    sampler.setup()
    found = set()
    for count in range(1, 2 * TOKENS):
        text = " ".join(WORDS[number % len(WORDS)] for number in range(count))
        longer = f"{text} hall"
        one, other = (sampler.encode(each, None).prompt_embeds_LD for each in (text, longer))
        unseen = torch.equal(one, other)
        assert bool(long_prompts(model, TOKENS, [row(longer)])) == unseen, longer
        found.add(unseen)
    assert found == {False, True}


def test_they_are_counted_with_the_special_tokens_in_their_order(with_t5: Path) -> None:
    from transformers import T5Tokenizer

    model = resolve_model(str(with_t5))
    library = T5Tokenizer.from_pretrained(with_t5 / "tokenizer")
    prompts = [row(" ".join(WORDS * times)) for times in (1, 5, 3)]
    expected = [(one.prompt_id, len(library(one.text)["input_ids"])) for one in prompts]
    found = long_prompts(model, 20, prompts)
    assert [(one.prompt_id, one.tokens) for one in found] == [one for one in expected if one[1] > 20]
    (short,) = [one for one in expected if one[1] <= 20]
    assert long_prompts(model, short[1], prompts[:1]) == []
    assert len(long_prompts(model, short[1] - 1, prompts[:1])) == 1


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_a_text_has_no_more_tokens_than_the_bound(text: str) -> None:
    global _library
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    if _library is None:
        # A token for every byte is the most that a tokenizer makes of a text.
        bytes_alone = {symbol: number for number, symbol in enumerate(pre_tokenizers.ByteLevel.alphabet())}
        _library = Tokenizer(models.BPE(vocab=bytes_alone, merges=[]))
        _library.normalizer = normalizers.NFKC()
        _library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        _library.decoder = decoders.ByteLevel()
    assert len(_library.encode(text).ids) <= _at_most(text)


_library: Any = None


@pytest.mark.parametrize(
    "text", ["a &amp;amp; b", "  a\n\n hall\t", "caf\u00c3\u00a9", "&lt;b&gt;", "\ufb01nal", "plain", "“x”"]
)
def test_wan_prompts_are_cleaned_as_its_pipelines_do(text: str) -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    assert _as_wan(text) == prompt_clean(text)


def test_wan_counts_what_is_left_of_a_prompt(tmp_path: Path) -> None:
    model = resolve_model(str(tiny_wan.build(tmp_path / "wan", "t2v")))
    # "&" alone is a token; of its escape there would be four more.
    text = "a hall &amp;amp; a quiet room a"
    assert long_prompts(model, 7, [row(text)]) == []
    assert [one.tokens for one in long_prompts(model, 6, [row(text)])] == [7]


def test_short_prompts_load_no_tokenizer(tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "model", text_only=True)
    code = (
        "import sys; from pathlib import Path; from pipeline.models import resolve_model\n"
        "from pipeline.sampling.prompt_length import long_prompts\n"
        "from pipeline.sampling.prompts import PromptItem\n"
        f"rows = [PromptItem(text='a quiet hall').record(None)] * 9; model = resolve_model({str(model)!r})\n"
        "assert long_prompts(model, 20, rows) == []; assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    shutil.rmtree(model / "tokenizer")
    with pytest.raises(UserError, match=r"the tokenizer of model 'model' in .* does not load"):
        long_prompts(resolve_model(str(model)), 8, [row("a quiet hall, " * 9)])


LONG = "a quiet hall a quiet hall a quiet hall pan"


@pytest.fixture
def two_long(prompts_file: Path) -> Path:
    """Three prompts, two of which have the same beginning and differ where the model does not look."""
    lines = [json.loads(line) for line in prompts_file.read_text().splitlines()]
    lines[1]["text"], lines[2]["text"] = LONG, f"{LONG} room"
    prompts_file.write_text("\n".join(map(json.dumps, lines)))
    return prompts_file


def test_long_prompts_are_told_once_and_refused_when_strict(
    tiny_model: Path, two_long: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"sampler": SamplerSettings(**SAMPLER), "model": str(tiny_model), "prompts": two_long}
    run = Run.create_or_open(tmp_path / "run")
    strict = SampleSettings(**given, candidates=1, strict_prompts=True)
    says = rf"2 of 3 prompts have more than {TOKENS} tokens, the longest 11: 'a quiet .*' *; shorten them"
    with pytest.raises(UserError, match=says):
        run_sample(run, strict)
    assert not run.rows("prompts").num_rows
    assert not (run.path / "media").exists()
    assert run_sample(run, SampleSettings(**given, candidates=1)).done == 3
    told = f"2 of 3 prompts have more than {TOKENS} tokens; what follows is not seen by the model"
    assert [record.getMessage() for record in caplog.records if told in record.getMessage()] != []
    assert len([one for one in caplog.records if "tokens" in one.getMessage()]) == 1
    # It changes no id, and there is nothing left to refuse.
    assert plan_sample(strict, run, write=False).tasks == ()
    assert run_sample(run, strict).present == 3


def test_encoding_them_says_nothing_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = tiny.tokenizer()
    # Behind it transformers warns of errors that do not come: the prompt is cut.
    words.model_max_length = TOKENS
    model = resolve_model(str(tiny.build(tmp_path / "model", text_only=True, tokens=words)))
    sampler = make_sampler(model, SamplerSettings(**SAMPLER))
    sampler.setup()
    libraries = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    for library in libraries:
        library.addHandler(caplog.handler)
    try:
        levels = [library.level for library in libraries]
        sampler.encode(f"{LONG} room", None)
        assert caplog.messages == []
        assert [library.level for library in libraries] == levels
        # As it would be told.
        sampler.pipe.tokenizer.deprecation_warnings.clear()
        sampler.pipe.encode_prompt(
            f"{LONG} room", do_classifier_free_guidance=False, max_sequence_length=TOKENS
        )
    finally:
        for library in libraries:
            library.removeHandler(caplog.handler)
    # One that propagates comes twice: through the root's handler as well.
    assert {one.split()[0] for one in caplog.messages} == {"Token", "The"}
    assert any("truncated" in one for one in caplog.messages)


def test_a_dry_run_lists_them(tiny_model: Path, two_long: Path, tmp_path: Path) -> None:
    words = ["sample", tmp_path / "run", *tiny_options(tiny_model, two_long), "--dry-run"]
    shown = gpa(*words).stdout
    assert "2 prompts are longer than what the model reads of them:" in shown
    assert f"  10 tokens: {LONG}\n  11 tokens: {LONG} room\n" in shown
    listed = json.loads(gpa(*words, "--json").stdout)["long_prompts"]
    assert [one["tokens"] for one in listed] == [10, 11]
    refused = gpa(*words[:-1], "--strict-prompts")
    assert refused.exit_code == 1
    assert "(--dry-run lists them), or leave --strict-prompts out" in refused.stderr
