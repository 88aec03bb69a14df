"""The words that VideoReward asks in: a template that the user brings, known here by its SHA-256 alone.

The published one belongs to the published code and not to this package. A checkpoint trained with other words
names theirs in its model_config.json; weights are never asked in words that they were not trained with.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from string import Formatter

from rewards.errors import RewardError
from rewards.videoreward.config import REWARD_TOKENS

PROMPT = "prompt.txt"
CONSTANT = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"  # its name in the published prompt_template.py
_FILE = "KwaiVGI/VideoAlign/219ab9db64c045e5181a2202d11f686439351292/prompt_template.py"
FETCH_PROMPT = f"curl -fLO https://raw.githubusercontent.com/{_FILE}"


def read_prompt(path: Path, sha256: str) -> str:
    """The template in a file, if its UTF-8 bytes have this SHA-256.

    A .py file is the published module: the string of CONSTANT is read from its syntax; nothing of it runs.
    Any other file is the template itself. Raises RewardError saying what is wrong and how to get the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        template = _constant(text) if path.suffix == ".py" else text
    except FileNotFoundError as error:
        raise RewardError(f"{path} is not there; fetch the published prompt: {FETCH_PROMPT}") from error
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = " ".join(str(error).split())
        raise RewardError(
            f"{path} holds no prompt ({why}); fetch the published one: {FETCH_PROMPT}"
        ) from error
    found = hashlib.sha256(template.encode()).hexdigest()
    if found != sha256:
        raise RewardError(
            f"{path} is not the prompt of these weights (SHA-256 {found}, not {sha256}), and asked in other "
            f"words they give other values; the published one comes with: {FETCH_PROMPT}"
        )
    _require_marks(path, template)
    return template


def _constant(source: str) -> str:
    """The string assigned to CONSTANT at a module's top. Raises ValueError or SyntaxError."""
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() as text)):
                if name == CONSTANT:
                    return text
    raise ValueError(f"it assigns no string to {CONSTANT}")


def _require_marks(path: Path, template: str) -> None:
    """Rewards are read at their tokens, each of which must be there once, and {text_prompt} too."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise RewardError(f"{path} is no template ({error}); write a brace of its words twice") from error
    wrong = next((token for token in REWARD_TOKENS if template.count(token) != 1), None)
    if wrong is not None or fields != ["text_prompt"]:
        raise RewardError(f"{path} must have {wrong or '{text_prompt}'} once; take the prompt of the weights")
