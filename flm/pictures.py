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
        InputError: the file is missing, is no picture, or is cut short.
    """
    try:
        with warnings.catch_warnings():
            # Such as a broken EXIF block; what cannot be decoded raises.
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                turned = ImageOps.exif_transpose(picture) if upright else picture
                return np.asarray(turned.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: the picture is missing") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: not a whole picture ({error}); replace the file or leave it out"
        ) from error
