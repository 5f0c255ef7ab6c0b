"""Pictures from disk, whatever their format."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from flm.errors import InputError

JPEG_REDUCTIONS = (1, 2, 4, 8)
"""By how much a JPEG can be reduced while it is decoded."""


def read_picture(path: Path, *, upright: bool) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a picture; greyscale, palette and CMYK become RGB.

    Args:
        path: any format that Pillow knows.
        upright: whether an EXIF rotation is applied, as viewers do. The points of annotations were marked on
            the pixels as they are stored.

    Raises:
        InputError: the file is missing, is no picture, is cut short, or has pixels of 32 bits.
    """
    with _opened(path) as picture:
        return _rgb(ImageOps.exif_transpose(picture) if upright else picture)


def read_reduced(
    path: Path, reduction: int
) -> tuple[UInt8[np.ndarray, "reduced_height reduced_width 3"], tuple[int, int]]:
    """Decode a picture as it is stored, a JPEG at a reduced scale: quicker, and in less memory.

    Args:
        path: any format that Pillow knows.
        reduction: r, one of `JPEG_REDUCTIONS`; pixel i then stands for the pixels r·i … r·(i + 1) - 1.

    Returns:
        The pixels, reduced if it is a JPEG, and the width and height of the picture itself.

    Raises:
        InputError: as for `read_picture`.
    """
    with _opened(path) as picture:
        width, height = picture.size
        if reduction > 1:
            # The decoder takes the smallest scale of its own that still covers this size.
            picture.draft("RGB", (max(1, width // reduction), max(1, height // reduction)))
        return _rgb(picture), (width, height)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Such as a broken EXIF block; what cannot be decoded raises.
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                yield picture
    except FileNotFoundError as error:
        raise InputError(f"{path}: the picture is missing") from error
    except Exception as error:  # decoders and EXIF readers fail each in their own way
        raise InputError(
            f"{path}: not a whole picture ({error}); replace the file or leave it out"
        ) from error


def _rgb(picture: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if picture.mode.startswith("I;16"):
        # Pillow would cut off all above 255.
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    if picture.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, whose white is anywhere; expected 8 or 16")
    return np.asarray(picture.convert("RGB"))
