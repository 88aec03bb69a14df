"""The packets of a moving picture: which are shown, when, and whether some are missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.media.external_files import Refused

_MOST_HIDDEN = 4096
# A header may count from the start of the sound, or to the end of the last frame.
_SLACK_FRAMES, _SLACK_SHARE = 3, 0.05


@dataclass(kw_only=True)
class Packets:
    """What the packets of a stream say: ticks of the presentable frames, how many others, the first frame.

    `lasts` is the longest that a packet says its frame is shown, in ticks.
    """

    ticks: list[int | None] = field(default_factory=list)
    hidden: int = 0
    start: int | None = None
    lasts: int = 0
    first: Any = None


def require_end(
    path: Path, kind: str, container: Any, stream: Any, times: list[float], packets: Packets
) -> None:
    """Refuse a file that ends before its header says, where its format says so of the picture."""
    import av

    step = times[-1] / (len(times) - 1) if len(times) > 1 else 0.0
    if kind == "gif" and path.read_bytes().rstrip(b"\0")[-1:] != b";":
        raise Refused("unreadable", "is truncated: a GIF ends in a semicolon; get it again")
    last = packets.ticks[-1]
    if kind == "avi" and last is not None and stream.frames > last + 1 + _SLACK_FRAMES:
        raise Refused(
            "unreadable", f"is truncated: it ends at frame {last + 1} of {stream.frames}; get it again"
        )
    if kind in ("matroska", "flv"):
        said = _tagged_seconds(stream)
        ticks = [one for one in packets.ticks if one is not None]
        # Both count from zero, wherever the picture begins.
        end = float((max(ticks, default=0) + packets.lasts) * stream.time_base)
        if said is None and len(container.streams) == 1 and container.duration:
            said = container.duration / av.time_base
        if said is not None and said > end + max(_SLACK_FRAMES * step, _SLACK_SHARE * said):
            raise Refused(
                "unreadable", f"is truncated: it ends at {end:.3g} of {said:.3g} seconds; get it again"
            )


def _tagged_seconds(stream: Any) -> float | None:
    """What a Matroska file says of the length of one stream."""
    parts = (stream.metadata.get("DURATION") or "").split(":")
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def read_through(container: Any, stream: Any, max_frames: int) -> Packets:
    """Read a stream to its end.

    Cuts by copying keep what decoding needs, and an edit list that says what is shown; cuts of broadcasts
    begin with frames that lean on what came before. Neither are presentable.
    """
    found = Packets()
    began: int | None = None
    for packet in container.demux(stream):
        leads = packet.is_discard or is_before(packet, began)
        if found.first is None:
            # The last packet is empty: it has the decoder give what it still holds.
            found.first = next(iter(decoded(packet, leads)), None)
        # A packet of AVI may say that the former frame stays.
        if packet.size <= 1:
            continue
        if began is None and packet.pts is not None:
            began = packet.pts
            if packet.is_keyframe and not packet.is_discard:
                found.start = began
        if leads:
            found.hidden += 1
            if found.hidden > _MOST_HIDDEN:
                raise Refused("unreadable", f"hides more than {_MOST_HIDDEN} frames: write it again as mp4")
            continue
        if packet.is_corrupt:
            raise Refused("unreadable", f"is damaged (packet {len(found.ticks) + 1}): get it again")
        found.lasts = max(found.lasts, packet.duration or 0)
        found.ticks.append(packet.pts if packet.pts is not None else packet.dts)
        if len(found.ticks) > max_frames:
            many = str(stream.frames) if stream.frames > max_frames else f"over {max_frames}"
            raise Refused(
                "too-long", f"has {many} frames; max_frames is {max_frames}: cut it, or raise the limit"
            )
    return found


def is_before(packet_or_frame: Any, start: int | None) -> bool:
    """Whether it is shown before the first frame that can be decoded."""
    return start is not None and packet_or_frame.pts is not None and packet_or_frame.pts < start


def decoded(packet: Any, leads: bool) -> list[Any]:
    """The frames that a packet gives; what is wrong with one that is not shown is no matter."""
    from av.error import InvalidDataError

    try:
        return list(packet.decode())
    except InvalidDataError:
        if leads:
            return []
        raise


def times_of(packets: Packets, stream: Any) -> list[float]:
    """Seconds of the presentable frames from the first on."""
    known = sorted(one for one in packets.ticks if one is not None)
    if len(known) < len(packets.ticks) or len(set(known)) < len(known):
        # No times, or times of nothing: the container's rate is all that is known.
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        return [number / rate if rate else 0.0 for number in range(len(packets.ticks))]
    return [float((tick - known[0]) * stream.time_base) for tick in known]
