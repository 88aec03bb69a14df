"""The settings and the words of a VideoReward checkpoint that its values depend on.

The published one belongs to the published code and not to this package. A checkpoint trained with other words
names theirs in its model_config.json; weights are never asked in words that they were not trained with.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from rewards.errors import RewardError
from rewards.hub import read_json_object

# In the order of the reward tokens in the prompt.
DIMENSIONS = ("VQ", "MQ", "TA")
REWARD_TOKENS = tuple(f"<|{name}_reward|>" for name in DIMENSIONS)
# SHA-256 of the published prompt: github.com/KwaiVGI/VideoAlign (219ab9d), prompt_template.py, the string
# DETAILED_PROMPT_WITH_SPECIAL_TOKEN in UTF-8, from its first line break to its last.
PUBLISHED_PROMPT = "fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700"
# What a checkpoint may be trained with and what of it this package computes: section, field, default, value.
_SUPPORTED: tuple[tuple[str, str, Any, Any], ...] = (
    ("data_config", "prompt_template_type", "none", "detailed_special"),
    ("data_config", "sample_type", "uniform", "uniform"),
    ("data_config", "num_frames", None, None),
    ("model_config", "use_special_tokens", False, True),
    ("peft_lora_config", "lora_enable", False, True),
    ("peft_lora_config", "vision_lora", False, False),
    ("peft_lora_config", "use_rslora", False, False),
)


@dataclass(frozen=True, kw_only=True)
class VideoRewardConfig:
    """Frames looked at per second, pixels of a frame at most, LoRA, outputs of the head, means, prompt.

    output_dim is 1 (one output, read at each reward token) or 3 (an output of its own for each). means and
    stds are those of raw rewards, in the order of DIMENSIONS. prompt_sha256 is that of the prompt trained
    with (data_config.prompt_sha256, which the published file lacks). Raises ValueError for impossible values.
    """

    fps: float
    max_frame_pixels: int
    lora_rank: int
    lora_alpha: float
    output_dim: int
    means: tuple[float, ...]
    stds: tuple[float, ...]
    prompt_sha256: str = PUBLISHED_PROMPT

    def __post_init__(self) -> None:
        for name in ("fps", "max_frame_pixels", "lora_rank", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.output_dim not in (1, len(DIMENSIONS)):
            raise ValueError(f"output_dim must be 1 or {len(DIMENSIONS)}, got {self.output_dim}")
        if len(self.means) != len(DIMENSIONS) or len(self.stds) != len(DIMENSIONS):
            raise ValueError(f"means and stds must have {len(DIMENSIONS)} values each")
        if not all(std > 0 for std in self.stds):
            raise ValueError(f"standard deviations must be > 0, got {self.stds}")
        if re.fullmatch("[0-9a-f]{64}", self.prompt_sha256) is None:
            raise ValueError(f"prompt_sha256 must be 64 hexadecimal digits, got {self.prompt_sha256!r}")


def read_config(path: Path) -> VideoRewardConfig:
    """The settings in a model_config.json. Raises RewardError for a model of another kind."""
    raw = read_json_object(path)
    for section, field, default, wanted in _SUPPORTED:
        found = _section(raw, section).get(field, default)
        if found != wanted:
            raise RewardError(
                f"{path}: {section}.{field} is {found!r}, not {wanted!r}: not a model like VideoReward; give "
                "the model_config.json of the weights"
            )
    data, lora = _section(raw, "data_config"), _section(raw, "peft_lora_config")
    statistics = _section(raw, "inference_config")
    try:
        return VideoRewardConfig(
            fps=float(data["fps"]),
            max_frame_pixels=int(data["max_frame_pixels"]),
            lora_rank=int(lora["lora_r"]),
            lora_alpha=float(lora["lora_alpha"]),
            output_dim=int(_section(raw, "model_config")["output_dim"]),
            means=tuple(float(statistics[f"{name}_mean"]) for name in DIMENSIONS),
            stds=tuple(float(statistics[f"{name}_std"]) for name in DIMENSIONS),
            prompt_sha256=str(data.get("prompt_sha256", PUBLISHED_PROMPT)),
        )
    except KeyError as error:
        raise RewardError(f"{path} has no {error.args[0]}; fetch it again") from error
    except (TypeError, ValueError) as error:
        raise RewardError(f"{path}: {error}; fetch it again") from error


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = raw.get(name)
    return section if isinstance(section, dict) else {}


PROMPT = "prompt.txt"
_CONSTANT = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"  # its name in the published prompt_template.py
_FILE = "KwaiVGI/VideoAlign/219ab9db64c045e5181a2202d11f686439351292/prompt_template.py"
FETCH_PROMPT = f"curl -fLO https://raw.githubusercontent.com/{_FILE}"


def read_prompt(path: Path, sha256: str) -> str:
    """The template in a file, if its UTF-8 bytes have this SHA-256.

    A .py file is the published module: the string of _CONSTANT is read from its syntax; nothing of it runs.
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
    """The string assigned to _CONSTANT at a module's top. Raises ValueError or SyntaxError."""
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() as text)):
                if name == _CONSTANT:
                    return text
    raise ValueError(f"it assigns no string to {_CONSTANT}")


def _require_marks(path: Path, template: str) -> None:
    """Rewards are read at their tokens, each of which must be there once, and {text_prompt} too."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise RewardError(f"{path} is no template ({error}); write a brace of its words twice") from error
    wrong = next((token for token in REWARD_TOKENS if template.count(token) != 1), None)
    if wrong is not None or fields != ["text_prompt"]:
        raise RewardError(f"{path} must have {wrong or '{text_prompt}'} once; take the prompt of the weights")
