"""Pictures: PNG files of a run, and first frames of any common kind, as they would look on a screen.

A first frame is what a model continues, so it must be the picture that its owner sees: upright, in sRGB, on a
white ground where it is transparent, at 8 bits. What cannot be shown in one way is refused with its reason.
Legend: H height, W width, 3 colours (RGB).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.atomic import write_bytes
from storage.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# Named, because the library also knows formats that it hands to other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
_PHOTO_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274
_WHITE = (255, 255, 255, 255)
# A profile that moves no colour further than this says what sRGB is in its own way.
_SAME_COLOUR = 2


def write_image(path: Path, image_HW3: NDArray[np.uint8]) -> None:
    """Write a uint8 RGB image as PNG, atomically. Raises ValueError for another dtype or shape."""
    from PIL import Image

    image_HW3 = np.asarray(image_HW3)
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[-1] != 3:
        got = f"{image_HW3.dtype} {image_HW3.shape}"
        raise ValueError(f"image_HW3 must be uint8 [H,W,3], got {got}: scale [0,1] by 255 and round")
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW3)).save(encoded, format="PNG")
    write_bytes(path, encoded.getvalue())


def read_image(path: Path, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """An image of any common format as uint8 RGB [H,W,3]: upright by its EXIF, in sRGB, on white.

    16 bits are scaled to 8. Raises UserError for a missing, truncated or foreign file, for an animation, for
    colours without a known range (floating point, 32 bits) or that its profile does not fit, and, before it
    is decoded, for one of more than `max_pixels`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=_FORMATS) as image:
            _require_one_picture(path, image, max_pixels)
            eight_bit = _eight_bit(path, image)
            shown = _on_white(_in_srgb(path, eight_bit, image.info.get("icc_profile")))
            return np.array(_upright(shown, image.getexif().get(_ORIENTATION)), dtype=np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({_what_else(path)}): give a PNG or JPEG file"
        ) from error


def _require_one_picture(path: Path, image: Image.Image, max_pixels: int | None) -> None:
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise UserError(
            f"{path} has {image.width}x{image.height} pixels, more than {max_pixels}: make it smaller"
        )
    # Phones keep a depth map or a preview as a second picture of a JPEG; the first is the photo.
    count = 1 if image.format in {"JPEG", "MPO"} else getattr(image, "n_frames", 1)
    if count > 1:
        raise UserError(f"{path} holds {count} pictures, an animation or pages: save the one that is meant")


def _eight_bit(path: Path, image: Image.Image) -> Image.Image:
    """The same picture with at most 8 bits a colour. Raises UserError where the range is not known."""
    from PIL import Image

    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"})
    if not deep:
        if image.mode in {"I", "F"}:
            kind = "32-bit integers" if image.mode == "I" else "floating point numbers"
            raise UserError(
                f"{path} holds {kind}, of which no file says what is white: save it with 8 or 16 bits"
            )
        if image.mode == "LAB":
            raise UserError(f"{path} holds Lab colours: save it as RGB")
        return image
    values = np.array(image).astype(np.float64)
    tags: Any = getattr(image, "tag_v2", {})
    most = 2.0 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    grey = np.rint(np.clip(values / most, 0, 1) * 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(_mask(values != clear))))
    return Image.fromarray(grey)


def _mask(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return kept.astype(np.uint8) * 255


def _in_srgb(path: Path, image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB or RGBA in sRGB. Raises UserError for a profile that cannot be read or is of other colours."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    grey = image.mode in {"1", "L", "LA"}
    plain = image if image.mode == "CMYK" else image.convert("L") if grey else image.convert("RGBA")
    plain = plain.convert("RGB") if plain.mode == "RGBA" else plain
    if profile:
        plain = _converted(path, plain, profile)
    plain = plain.convert("RGB")
    if alpha is not None:
        plain.putalpha(alpha)
    return plain


def _converted(path: Path, image: Image.Image, profile: bytes) -> Image.Image:
    """The colours of an embedded profile in sRGB; unchanged, to the bit, where it says the same as sRGB."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if image.mode != "CMYK" and _moves_nothing(transform, image.mode):
            return image
        return ImageCms.applyTransform(image, transform) or image
    except (ImageCms.PyCMSError, OSError) as error:
        raise UserError(
            f"{path} has a colour profile that cannot be used for its colours ({image.mode}): save it as sRGB"
        ) from error


def _moves_nothing(transform: Any, mode: str) -> bool:
    from PIL import Image, ImageCms

    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        probe = Image.fromarray(levels[None, :])
    else:
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
        probe = Image.fromarray(cube.reshape(1, -1, 3))
    moved = ImageCms.applyTransform(probe, transform)
    change = np.asarray(moved).astype(int) - np.asarray(probe.convert("RGB"))
    return bool(np.abs(change).max() <= _SAME_COLOUR)


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _upright(image: Image.Image, orientation: int | None) -> Image.Image:
    """Turned as an EXIF orientation says."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _what_else(path: Path) -> str:
    """What a file is that no reader took."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        head = b""
    if head[4:8] == b"ftyp" and head[8:12] in _PHOTO_BRANDS:
        return "a HEIC or AVIF picture"
    return "missing, truncated or no image"
