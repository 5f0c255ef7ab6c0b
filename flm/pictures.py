"""Pictures from disk, whatever their format."""

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from flm.errors import InputError


def read_picture(path: Path, *, upright: bool) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a picture; greyscale, palette and CMYK become RGB.

    Args:
        path: any format that Pillow knows.
        upright: whether an EXIF rotation is applied, as viewers do. The points of annotations were marked on
            the pixels as they are stored.

    Raises:
        InputError: the file is missing, is no picture, is cut short, or has pixels of 32 bits.
    """
    try:
        with warnings.catch_warnings():
            # Such as a broken EXIF block; what cannot be decoded raises.
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                turned = ImageOps.exif_transpose(picture) if upright else picture
                return _rgb(turned)
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
