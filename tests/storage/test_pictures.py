"""First frames of every kind are the picture that a person sees, or are refused with the reason."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from storage.errors import UserError
from storage.media.pictures import read_image

COLOURS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
RAMP: NDArray[np.uint16] = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(3, 0)
EIGHT = np.rint(RAMP / 257).astype(int)
# What a viewer does to the stored pixels, by the orientation of EXIF 2.3, table 6.
SHOWN: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_a_turned_picture_is_shown_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    # Blocks of one colour come through JPEG as they are.
    blocks = (np.arange(6).reshape(2, 3) * 40).astype(np.uint8).repeat(16, 0).repeat(16, 1)[..., None]
    image = np.repeat(blocks, 3, axis=2)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", exif=exif, lossless=True, quality=100)
    found = read_image(tmp_path / f"a.{suffix}")
    expected = SHOWN[orientation](image)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2


def big_endian_tiff(path: Path) -> None:
    Image.frombytes("I;16B", (64, 3), RAMP.astype(">u2").tobytes()).save(path)


def pgm(most: int, values: NDArray[Any]) -> Callable[[Path], object]:
    head = f"P5 64 3 {most}\n".encode()
    return lambda path: path.write_bytes(head + values.astype(">u2").tobytes())


DEEP: dict[str, tuple[str, Callable[[Path], object]]] = {
    "png": ("a.png", lambda path: Image.fromarray(RAMP).save(path)),
    "tiff": ("a.tif", lambda path: Image.fromarray(RAMP).save(path)),
    "tiff of the other byte order": ("a.tif", big_endian_tiff),
    "pgm": ("a.pgm", pgm(65535, RAMP)),
    "pgm of 12 bits": ("a.pgm", pgm(4095, RAMP >> 4)),
}


def tiff(bits: int, white_is_zero: bool, data: bytes) -> Callable[[Path], object]:
    """An uncompressed TIFF 6.0 of 64x3 grey samples."""
    white = 0 if white_is_zero else 1
    tags = {256: 64, 257: 3, 258: bits, 259: 1, 262: white, 273: 134, 277: 1, 278: 3, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    return lambda path: path.write_bytes(head.ljust(134, b"\0") + data)


def packed(values: NDArray[Any]) -> bytes:
    """Pairs of 12 bits in three bytes, the first in front."""
    one, two = values.reshape(-1, 2).astype(int).T
    return np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], axis=1).astype(np.uint8).tobytes()


DEEP |= {
    "tiff of 12 bits": ("a.tif", tiff(12, False, packed(RAMP >> 4))),
    "tiff where white is zero": ("a.tif", tiff(16, True, (65535 - RAMP).astype("<u2").tobytes())),
}


@pytest.mark.parametrize("what", DEEP)
def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path: Path, what: str) -> None:
    name, save = DEEP[what]
    save(tmp_path / name)
    found = read_image(tmp_path / name)
    assert found.shape == (3, 64, 3)
    assert np.abs(found - EIGHT[..., None]).max() <= (1 if "12" in what else 0)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_of_sixteen_bits_are_their_high_bytes(tmp_path: Path, suffix: str) -> None:
    import cv2

    deep = COLOURS.astype(np.uint16) * 256 + 77
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), deep[..., ::-1])
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), COLOURS)


def test_a_grey_level_of_sixteen_bits_that_is_transparent_is_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png", transparency=int(RAMP[0, 5]))
    found = read_image(tmp_path / "a.png")
    assert found[0, 5].tolist() == [255, 255, 255]
    assert np.array_equal(found[:, 6:, 0], EIGHT[:, 6:])


def over_white(alpha: NDArray[Any]) -> NDArray[np.int64]:
    share = alpha[..., None] / 255
    return np.rint(COLOURS * share + 255 * (1 - share)).astype(int)


ALPHA: NDArray[np.uint8] = np.linspace(0, 255, 40).reshape(5, 8).astype(np.uint8)
RGBA = np.concatenate([COLOURS, ALPHA[..., None]], axis=2)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGBA).save(tmp_path / f"a.{suffix}", lossless=True, exact=True)
    found = read_image(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(found - over_white(ALPHA)).max() <= 1
    opaque = np.concatenate([COLOURS, np.full((5, 8, 1), 255, np.uint8)], axis=2)
    Image.fromarray(opaque).save(tmp_path / f"b.{suffix}", lossless=True, exact=True)
    assert np.array_equal(read_image(tmp_path / f"b.{suffix}"), COLOURS)


def test_other_ways_to_be_transparent(tmp_path: Path) -> None:
    grey = COLOURS[..., 0]
    Image.merge("LA", (Image.fromarray(grey), Image.fromarray(ALPHA))).save(tmp_path / "la.png")
    expected = np.rint(grey * (ALPHA / 255) + 255 - ALPHA).astype(int)
    assert np.abs(read_image(tmp_path / "la.png")[..., 1].astype(int) - expected).max() <= 1
    # A colour that stands for nothing, and a palette that has one.
    Image.fromarray(COLOURS).save(tmp_path / "rgb.png", transparency=tuple(COLOURS[2, 3].tolist()))
    palette = Image.fromarray((np.arange(40) % 4).reshape(5, 8).astype(np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 0, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "p.gif", transparency=1)
    found = read_image(tmp_path / "rgb.png")
    assert found[2, 3].tolist() == [255, 255, 255]
    assert np.array_equal(found[3], COLOURS[3])
    for name in ("p.png", "p.gif"):
        row = read_image(tmp_path / name)[0, :4].tolist()
        assert row == [[10, 20, 30], [255, 255, 255], [70, 80, 90], [0, 0, 0]], name


def test_one_bit_a_palette_and_cmyk_are_their_colours(tmp_path: Path) -> None:
    bits = COLOURS[..., 0] > 127
    for name in ("a.png", "a.tif"):
        Image.fromarray(bits).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name)[..., 2], bits * 255)
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() <= 2


def profile(primaries: dict[str, tuple[float, float, float]], space: bytes = b"RGB ") -> bytes:
    """An ICC profile (ICC.1:2001, 6) with these columns in D50 and the curve of sRGB."""
    levels = np.linspace(0, 1, 1024)
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    curve = b"curv" + bytes(4) + struct.pack(">I", 1024) + np.rint(linear * 65535).astype(">u2").tobytes()

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(one * 65536) for one in values))

    white = (0.9642, 1.0, 0.8249)
    text = b"a test"
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(79)}
    tags |= {b"wtpt": xyz(white), b"cprt": b"text" + bytes(4) + b"none\0"}
    tags |= {f"{one}XYZ".encode(): xyz(value) for one, value in primaries.items()}
    tags |= {f"{one}TRC".encode(): curve for one in primaries or "k"}
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(one * 65536) for one in white))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


P3 = {"r": (0.51512, 0.2412, -0.00105), "g": (0.29198, 0.69225, 0.04189), "b": (0.1571, 0.06657, 0.78407)}
SRGB = {"r": (0.43607, 0.22249, 0.01392), "g": (0.38515, 0.71687, 0.09708), "b": (0.14307, 0.06061, 0.7141)}


def p3_in_srgb(rgb: NDArray[np.uint8]) -> NDArray[Any]:
    """By the columns of both: decode, change the basis, encode."""
    levels = rgb / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    columns = [np.array([one[name] for name in "rgb"]).T for one in (P3, SRGB)]
    moved = np.clip(linear @ (np.linalg.inv(columns[1]) @ columns[0]).T, 0, 1)
    shown = np.where(moved <= 0.0031308, moved * 12.92, 1.055 * moved ** (1 / 2.4) - 0.055)
    return np.asarray(shown * 255)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_the_colours_of_a_phone_are_shown_in_srgb(tmp_path: Path, suffix: str) -> None:
    saved = {"icc_profile": profile(P3), "lossless": True, "exact": True}
    Image.fromarray(COLOURS).save(tmp_path / f"a.{suffix}", **saved)
    expected = p3_in_srgb(COLOURS)
    assert np.abs(expected - COLOURS).max() > 20
    assert np.abs(read_image(tmp_path / f"a.{suffix}") - expected).max() <= 2
    # Transparent too: first the colours, then the ground.
    Image.fromarray(RGBA).save(tmp_path / f"b.{suffix}", **saved)
    share = ALPHA[..., None] / 255
    mixed = expected * share + 255 * (1 - share)
    assert np.abs(read_image(tmp_path / f"b.{suffix}") - mixed).max() <= 3
    # A grey picture that kept the profile of its camera.
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / f"c.{suffix}", **saved)
    assert np.abs(read_image(tmp_path / f"c.{suffix}")[..., 1].astype(int) - COLOURS[..., 0]).max() <= 1


@pytest.mark.parametrize("srgb", ["of the library", "under another name"])
def test_a_profile_that_says_srgb_changes_no_bit(tmp_path: Path, srgb: str) -> None:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = made if srgb == "of the library" else profile(SRGB)
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=data)
    assert np.array_equal(read_image(tmp_path / "a.png"), COLOURS)


def test_a_grey_profile_is_for_grey_pictures(tmp_path: Path) -> None:
    grey = Image.fromarray(COLOURS[..., 0])
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    for name, image in {"l.png": grey, "la.png": opaque}.items():
        image.save(tmp_path / name, icc_profile=profile({}, b"GRAY"))
        assert np.array_equal(read_image(tmp_path / name)[..., 0], COLOURS[..., 0])


def frames(path: Path, **changes: Any) -> None:
    first, *others = (Image.fromarray(np.roll(COLOURS, step)) for step in range(3))
    first.save(path, save_all=True, append_images=others, **changes)


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "gif": ("a.gif", frames, "holds 3 pictures, an animation or pages: save the one"),
    "webp": ("a.webp", frames, "holds 3 pictures"),
    "apng": ("a.png", frames, "holds 3 pictures"),
    "pages": ("a.tif", frames, "holds 3 pictures"),
    "float": ("a.tif", lambda path: Image.new("F", (4, 4), 0.5).save(path), "holds floating point numbers"),
    "long": ("a.tif", lambda path: Image.new("I", (4, 4), 5).save(path), "holds 32-bit integers"),
    "lab": ("a.tif", lambda path: Image.new("LAB", (4, 4)).save(path), "holds Lab colours: save it as RGB"),
    "profile": (
        "a.png",
        lambda path: Image.fromarray(COLOURS).save(path, icc_profile=b"no profile" * 20),
        r"has a colour profile that cannot be used for its colours \(RGB\): save it as sRGB",
    ),
    "grey profile": (
        "a.png",
        lambda path: Image.fromarray(COLOURS).save(path, icc_profile=profile({}, b"GRAY")),
        "has a colour profile that cannot be used",
    ),
    "heic": (
        "a.png",
        lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)),
        r"cannot be read as an image \(a HEIC or AVIF picture\): give a PNG or JPEG file",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_one_look_is_refused(tmp_path: Path, what: str) -> None:
    name, save, message = REFUSED[what]
    save(tmp_path / name)
    with pytest.raises(UserError, match=f"{tmp_path / name} {message}"):
        read_image(tmp_path / name)


def test_the_photo_of_a_file_with_a_preview_is_its_first_picture(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(COLOURS).save(data, format="MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    (tmp_path / "a.jpg").write_bytes(data.getvalue())
    assert read_image(tmp_path / "a.jpg").shape == (5, 8, 3)
