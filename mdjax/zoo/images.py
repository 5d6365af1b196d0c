"""One image, in a file or as Pillow holds it, → its pixels; what it takes is known before it is decoded."""

import warnings
from typing import IO, Any

import numpy as np

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
"""Kinds of image files that are read, by Pillow's names: those that need no program beside it."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp")
"""How the names of such files end."""

_CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3}


def is_image(value: Any) -> bool:
    """Whether a value is one of Pillow's images, without importing it."""
    return all(hasattr(value, name) for name in ("mode", "size", "convert", "getbands"))


def open_image(file: IO[bytes]) -> Any:
    """An image of Pillow whose header is read and whose pixels are not.

    Raises ValueError for another kind of file, and for one that claims more pixels than any photograph has; a damaged
    one raises what Pillow raises.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is no image of a known kind ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"it claims to have too many pixels ({error})") from None


def shape_of(image: Any) -> tuple[int, int, int]:
    """(height, width, channels) of an image, by its header: 1 channel for grey ones, 3 for colours and palettes.

    Raises ValueError for images of another kind, whose pixels would have to be changed: transparency, 16 bits, CMYK.
    """
    if image.mode not in _CHANNELS or "transparency" in getattr(image, "info", {}):
        kind = image.mode if image.mode not in _CHANNELS else f"{image.mode} with transparency"
        raise ValueError(f"it is of the mode {kind}, but grey (L) or colours (RGB) of 8 bits are expected")
    width, height = image.size
    return height, width, _CHANNELS[image.mode]


def pixels(image: Any) -> np.ndarray:
    """The pixels, uint8 [height, width, channels]; ValueError as `shape_of`, else what Pillow raises."""
    shape = shape_of(image)
    if image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image, np.uint8).reshape(shape)


def form(shape: tuple[int, int, int]) -> str:
    """Height, width and channels as errors tell them."""
    height, width, channels = shape
    return f"{height}×{width} of {channels} channel{'s' * (channels > 1)}"
