"""Whether a media file is as long as it says it is: a few reads, nothing is decoded.

Files of this project are written whole or not at all; a copy that was cut short, or a disk that failed, is
found here before work is built on it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import BinaryIO

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_MOST_HEADER_BYTES = 100 * 2**20


def is_whole(path: Path) -> bool:
    """Whether a .mp4, .safetensors or .png file ends where its own structure says; others need only exist."""
    check = {".mp4": _is_whole_mp4, ".safetensors": _is_whole_safetensors, ".png": _is_whole_png}
    try:
        size = path.stat().st_size
        if path.suffix not in check:
            return True
        with path.open("rb") as file:
            return check[path.suffix](file, size)
    except (OSError, ValueError, struct.error):
        return False


def _is_whole_mp4(file: BinaryIO, size: int) -> bool:
    """Boxes follow one another to the end of the file; one of them is the index (ISO 14496-12, 4.2)."""
    position, names = 0, set()
    while position + 8 <= size:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        elif length == 0:
            length = size - position
        if length < 8:
            return False
        names.add(name)
        position += length
    return position <= size and b"moov" in names


def _is_whole_safetensors(file: BinaryIO, size: int) -> bool:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size, _MOST_HEADER_BYTES):
        return False
    header = json.loads(file.read(length))
    ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
    return bool(8 + length + max(ends, default=0) == size)


def _is_whole_png(file: BinaryIO, size: int) -> bool:
    begins = file.read(len(_PNG_START)) == _PNG_START
    file.seek(max(0, size - len(_PNG_END)))
    return begins and file.read() == _PNG_END
