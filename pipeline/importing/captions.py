"""The prompt of each video of a folder: its own caption file, prompt.txt, or the name of the folder."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pipeline.importing.manifest import seed_of_name
from storage.media.external_files import Refused, confined, show
from storage.texts import read_text, text_of

PROMPT_FILE = "prompt.txt"
# Files that say a prompt a line, when something else says of which videos.
LINE_FILES = (PROMPT_FILE, "prompts.txt", "caption.txt", "captions.txt")
VIDEO_LIST = "videos.txt"
_SUFFIXES = (".txt", ".caption")
# Videos in a folder of this name may have their captions in a folder beside it.
_VIDEO_FOLDER, _CAPTION_FOLDERS = "videos", ("labels", "captions")


class Captions:
    """Finds the text and the seed of the videos of one folder."""

    def __init__(
        self, source: Path, where: str, names: list[str], videos: list[str], allow_outside: bool
    ) -> None:
        """`where` is the folder in the source; of its `names`, `videos` are those of videos."""
        self._source, self._where, self._allow_outside = source, where, allow_outside
        self._names = frozenset(names)
        self._own = {name: self._beside(name) for name in videos}
        self._without = sum(not files for files in self._own.values())

    def of(self, video: str) -> tuple[str, str | int, str]:
        """The prompt of a video, its seed, and what says the prompt.

        Raises Refused where they are missing or could be several.
        """
        files = self._own[video]
        if len(files) > 1:
            both = " and ".join(show(file) for file in files)
            raise Refused("ambiguous-prompt", f"has the captions {both}: keep one")
        stem = Path(video).stem
        if files:
            return text_of(self._read(files[0]), files[0]), seed_of_name(self._path(video)), "caption file"
        if PROMPT_FILE in self._names:
            return self._of_all, show(stem), PROMPT_FILE
        if self._without < len(self._own):
            raise Refused(
                "no-prompt", f"has no {show(stem)}.txt, as other videos here have: add it, or {PROMPT_FILE}"
            )
        lines = next((name for name in LINE_FILES if name in self._names), None)
        if lines is not None:
            raise Refused(
                "ambiguous-prompt",
                f"lies beside {lines}, and no {VIDEO_LIST} says which line is of which video: add it, with a "
                f"path a line, or write the prompt of all into {PROMPT_FILE}",
            )
        return self._folder_name(), show(stem), "folder name"

    @cached_property
    def _of_all(self) -> str:
        """The prompt of every video without a caption of its own."""
        text = text_of(self._read(PROMPT_FILE), PROMPT_FILE)
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and self._without > 1:
            raise Refused(
                "ambiguous-prompt",
                f"shares {PROMPT_FILE} of {len(lines)} lines with {self._without - 1} other videos: list "
                f"the videos in {VIDEO_LIST}, a path a line in the order of the prompts, or write one prompt "
                "in one line",
            )
        return text

    def _folder_name(self) -> str:
        if not self._where:
            raise Refused(
                "no-prompt", f"lies in no folder of a prompt: put it in one, or add a {PROMPT_FILE}"
            )
        name = Path(self._where).name
        if name == _VIDEO_FOLDER:
            raise Refused(
                "no-prompt",
                f"lies in a folder called {name}, which says no prompt: add a caption beside it or in "
                f"{_CAPTION_FOLDERS[0]}/, or a {PROMPT_FILE}",
            )
        if name != show(name):
            raise Refused("not-utf-8", f"the folder's name is not UTF-8: rename it, or add a {PROMPT_FILE}")
        return text_of(name, "the folder's name")

    def _beside(self, video: str) -> list[str]:
        """The caption files of a video, relative to its folder."""
        wanted = [Path(video).stem + suffix for suffix in _SUFFIXES]
        found = [name for name in wanted if name in self._names and name not in (*LINE_FILES, VIDEO_LIST)]
        if Path(self._where).name == _VIDEO_FOLDER:
            folder = (self._source / self._where).parent
            beside = [f"../{other}/{name}" for other in _CAPTION_FOLDERS for name in wanted]
            found += [name for name in beside if os.path.lexists(folder / name[3:])]
        return found

    def _read(self, name: str) -> str:
        return read_text(confined(self._source, self._path(name), self._allow_outside))

    def _path(self, name: str) -> str:
        return f"{self._where}/{name}" if self._where else name
