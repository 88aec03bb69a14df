"""Prompts that are longer than what the model reads of them, found before anything is sampled.

A pipeline cuts a prompt at `max_sequence_length` tokens and says nothing that reaches a person: two prompts
that differ behind it are one to the model. The tokenizer is the model's own, loaded without weights, and only
where a text has bytes enough to be too long.
"""

from __future__ import annotations

import html
import logging
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipeline.models import ModelRef, model_index
from storage.errors import UserError
from storage.tables.records import Prompt

log = logging.getLogger(__name__)

# More than any tokenizer puts around a text.
_SPECIAL_TOKENS = 8
_TOKENIZER = "tokenizer"


@dataclass(frozen=True, kw_only=True)
class LongPrompt:
    """A prompt of which the model does not see the end: its tokens with the special ones."""

    prompt_id: str
    text: str
    tokens: int


def long_prompts(model: ModelRef, limit: int, prompts: Collection[Prompt]) -> list[LongPrompt]:
    """The prompts that have more tokens than `limit`, in their order. Raises UserError without a tokenizer.

    Counted as the model's pipeline of diffusers counts when it cuts them.
    """
    clean = _as_wan if model.family.startswith("Wan") else str
    texts = [clean(prompt.text) for prompt in prompts]
    if all(_at_most(text) <= limit for text in texts):
        return []
    tokenizer = _tokenizer(model)
    counted = zip(prompts, texts, strict=True)
    found = [(prompt, len(tokenizer(text).input_ids)) for prompt, text in counted if _at_most(text) > limit]
    return [
        LongPrompt(prompt_id=prompt.prompt_id, text=prompt.text, tokens=tokens)
        for prompt, tokens in found
        if tokens > limit
    ]


def tell_long_prompts(model: ModelRef, limit: int, prompts: Collection[Prompt], *, strict: bool) -> None:
    """Warn of long prompts in one line. Raises UserError, naming the longest, when `strict`."""
    found = long_prompts(model, limit, prompts)
    if not found:
        return
    told = f"{len(found)} of {len(prompts)} prompts have more than {limit} tokens"
    if strict:
        longest = max(found, key=lambda one: one.tokens)
        raise UserError(
            f"{told}, the longest {longest.tokens}: {longest.text[:60]!r}; shorten them (`dry_run` lists "
            "them), or leave strict_prompts out"
        )
    log.warning("%s; what follows is not seen by the model (--dry-run lists them)", told)


def _at_most(text: str) -> int:
    """A bound on the tokens of a text: no tokenizer makes more of it than its bytes when it is decomposed."""
    return len(unicodedata.normalize("NFKC", text).encode("utf-8")) + _SPECIAL_TOKENS


def _tokenizer(model: ModelRef) -> Any:
    import transformers
    from transformers.utils import logging as quiet

    named = model_index(model).get(_TOKENIZER)
    cls = getattr(transformers, str(named[1] if isinstance(named, list) else None), None)
    verbosity = quiet.get_verbosity()
    # It warns of lengths too, but of another limit.
    quiet.set_verbosity_error()
    try:
        return (cls or transformers.AutoTokenizer).from_pretrained(
            model.path / _TOKENIZER, local_files_only=True, model_max_length=2**31
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer of model {model.name!r} in {model.path} does not load: {error}; get it again"
        ) from error
    finally:
        quiet.set_verbosity(verbosity)


def _as_wan(text: str) -> str:
    """What diffusers' Wan pipelines do to a prompt (prompt_clean), whose import takes seconds."""
    import ftfy

    fixed = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", fixed).strip()
