"""A decoded frame as RGB of the kind that models see: 8 bits, sRGB primaries, the curve of ordinary video.

What a file does not say is taken as players take it: the matrix of BT.709 for pictures of high definition,
that of BT.601 below. Wide colours and high dynamic range are converted by the light that a reference screen
shows (ITU-R BT.1886, BT.2087, BT.2100, BT.2408): reference white, 203 cd/m2, becomes white, and what is
brighter or more colourful than an ordinary screen shows is clipped. (swscale's own conversion is up to 29 of
255 away from these formulas.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame

# ITU-T H.273: numbers of primaries, transfers and matrices. 2 is "unspecified", 0 and 3 are reserved.
_UNSAID = frozenset({0, 2, 3})
_MATRICES = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 9})
_UNSAID_MATRIX = frozenset({2, 3})  # 0 is RGB
_ORDINARY_PRIMARIES = _UNSAID | {1, 5, 6, 7}
_BT2020 = 9
# From linear light of BT.2020 and of Display P3 to that of BT.709: white is D65 in all three.
_WIDE_PRIMARIES = {
    _BT2020: (
        (1.660491, -0.587641, -0.072850),
        (-0.124550, 1.132900, -0.008349),
        (-0.018151, -0.100579, 1.118730),
    ),
    12: ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274)),
}
# BT.709, gamma 2.2, BT.601, SMPTE 240M, sRGB, BT.2020: one curve as far as eyes go.
_ORDINARY_TRANSFERS = _UNSAID | {1, 4, 6, 7, 11, 13, 14, 15}
_PQ, _HLG = 16, 18
_HIGH_RANGE = {_PQ: "PQ", _HLG: "HLG"}
_REFERENCE_WHITE = 203.0  # cd/m2
_PEAK = 1000.0  # cd/m2, of the reference screen of HLG
_BT2020_LUMA = (0.2627, 0.6780, 0.0593)
_SCREEN_GAMMA = 2.4
# swscale's numbers of the matrices that stand in for one that is not said.
_OF_LARGE, _OF_SMALL, _OF_WIDE = 1, 5, 9
_LARGE_WIDTH, _LARGE_HEIGHT = 1280, 577


def why_unknown(frame: VideoFrame) -> str | None:
    """Why the colours of a frame cannot be converted, None when they can be."""
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if transfer not in _ORDINARY_TRANSFERS and transfer not in _HIGH_RANGE:
        return f"its transfer function is number {transfer} of H.273, which is no video for screens"
    if primaries not in _ORDINARY_PRIMARIES | _WIDE_PRIMARIES.keys():
        return f"its primaries are number {primaries} of H.273"
    if int(frame.colorspace) not in _MATRICES:
        return f"its matrix is number {int(frame.colorspace)} of H.273"
    if _has(frame, "DOVI_METADATA", "DOVI_RPU_BUFFER") and transfer in _UNSAID:
        return "it is Dolby Vision without a picture for other screens (profile 5)"
    return None


def converted_from(frame: VideoFrame) -> str | None:
    """What the colours of a frame are converted from, None for ordinary video."""
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if transfer in _HIGH_RANGE:
        return f"{_HIGH_RANGE[transfer]}, primaries {primaries}"
    return f"primaries {primaries}" if primaries in _WIDE_PRIMARIES else None


def rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """A frame as uint8 RGB [H,W,3], as it is stored: not yet turned, its pixels perhaps not square."""
    # Threads are made anew for every frame: with them, 48 frames of 480 lines take 109 ms, without 9.
    options: dict[str, Any] = {"threads": 1}
    if int(frame.colorspace) in _UNSAID_MATRIX and not frame.format.is_rgb:
        large = frame.width >= _LARGE_WIDTH or frame.height >= _LARGE_HEIGHT
        high_range = int(frame.color_trc) in _HIGH_RANGE
        options["src_colorspace"] = _OF_WIDE if high_range else _OF_LARGE if large else _OF_SMALL
    if converted_from(frame) is not None:
        return _for_ordinary_screens(
            np.asarray(frame.reformat(format="rgb48le", **options).to_ndarray()),
            int(frame.color_trc),
            int(frame.color_primaries),
        )
    return np.asarray(frame.reformat(format="rgb24", **options).to_ndarray(), np.uint8)


def _for_ordinary_screens(signal_HW3: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """The picture that shows the same light, as far as an ordinary screen goes."""
    values = np.linspace(0, 1, 2**16)
    if transfer == _HLG:
        light_HW3 = _hlg_scene(values).astype(np.float32)[signal_HW3]
        luma_HW1 = (light_HW3 @ np.array(_BT2020_LUMA, np.float32))[..., None]
        # The reference screen shows it darker in the dark: system gamma 1.2.
        light_HW3 *= luma_HW1**0.2 * np.float32(_PEAK / _REFERENCE_WHITE)
    else:
        shown = _pq_light(values) / _REFERENCE_WHITE if transfer == _PQ else values**_SCREEN_GAMMA
        light_HW3 = shown.astype(np.float32)[signal_HW3]
    if transfer in _HIGH_RANGE and primaries in _UNSAID:
        primaries = _BT2020
    if primaries in _WIDE_PRIMARIES:
        light_HW3 = light_HW3 @ np.array(_WIDE_PRIMARIES[primaries], np.float32).T
    return (light_HW3.clip(0, 1) ** np.float32(1 / _SCREEN_GAMMA) * 255).round().astype(np.uint8)


def _hlg_scene(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light of the scene, 1 at most (BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _pq_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light of the screen in cd/m2 (BT.2100, table 4)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def shows_through(frame: VideoFrame) -> bool:
    """Whether a part of a frame is transparent."""
    if not any(component.is_alpha for component in frame.format.components):
        return False
    return bool((frame.reformat(format="rgba").to_ndarray()[..., 3] < 255).any())


def orientation(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """How a frame is turned: x' = a x + c y, y' = b x + d y, with y down and (a, b, c, d) of -1, 0, 1.

    None when that is no turn by quarters.
    """
    import av.sidedata.sidedata

    held: Any = frame.side_data
    found = held.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if found is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(found, np.int32).reshape(3, 3)[:2, :2] / 2**16
    if not matrix.any():  # players take it for none
        return 1, 0, 0, 1
    unit = matrix / max(1e-9, float(np.abs(matrix).max()))
    a, b, c, d = (round(float(value)) for value in unit.ravel())
    if np.abs(unit.ravel() - (a, b, c, d)).max() > 1e-2 or abs(a * d - b * c) != 1:
        return None
    return a, b, c, d


def turned(frame_HW3: NDArray[np.uint8], how: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A picture turned and mirrored as `orientation` says."""
    a, b, c, d = how
    if a:
        return frame_HW3[::d, ::a]
    return frame_HW3.transpose(1, 0, 2)[::b, ::c]


def _has(frame: VideoFrame, *names: str) -> bool:
    import av.sidedata.sidedata

    held: Any = frame.side_data
    return any(held.get(av.sidedata.sidedata.Type[name]) is not None for name in names)
