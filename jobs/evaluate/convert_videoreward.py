"""gpa convert-videoreward: the published pickle of VideoReward as safetensors, for `gpa evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.settings.options import json_option, option, print_result


@click.command("convert-videoreward")
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="[FOLDER]")
@option(
    "--checkpoint", default="KlingTeam/VideoReward", metavar="NAME", help="Folder or Hub id of VideoReward."
)
@option(
    "--base", default="Qwen/Qwen2-VL-2B-Instruct", metavar="NAME", help="Folder or Hub id of its Qwen2-VL."
)
@option(
    "--prompt",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Needed: the published prompt_template.py, read and not run, or a text file of its one template.",
)
@json_option
def command(folder: Path | None, checkpoint: str, base: str, prompt: Path | None, as_json: bool) -> None:
    """Make safe weights of VideoReward for the judge `videoreward` of `gpa evaluate`.

    VideoReward is published as a pickle. Its tensors are read without running anything that it holds, checked
    by name and shape, and written as safetensors to FOLDER (4.3 GiB), with Qwen2-VL's config and tokenizer
    and the prompt that VideoReward was trained with, known by its SHA-256. Without FOLDER they go where the
    judge finds them by itself. Nothing is downloaded; fetch before:

    \b
      hf download KlingTeam/VideoReward
      hf download Qwen/Qwen2-VL-2B-Instruct config.json tokenizer.json
      git clone --depth 1 https://github.com/KwaiVGI/VideoAlign
      gpa convert-videoreward --prompt VideoAlign/prompt_template.py
    """
    from rewards.videoreward.settings import FETCH_PROMPT
    from rewards.videoreward.weights import convert, converted_folder

    if prompt is None:
        raise click.UsageError(
            f"--prompt is missing: name the published prompt_template.py; fetch it with: {FETCH_PROMPT}"
        )
    written = convert(checkpoint, base, prompt, folder or converted_folder())
    judge = "videoreward" if folder is None else f"videoreward={written}"
    print_result({"folder": str(written)}, as_json, f"{written}: use it with --judge {judge}")
