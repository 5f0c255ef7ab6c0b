"""Pictures from disk, whatever their format."""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from flm.errors import InputError
from flm.geometry import FaceBox

JPEG_REDUCTIONS = (1, 2, 4, 8)
"""By how much a JPEG can be reduced while it is decoded."""

MOST_PICTURE_PIXELS = 2**27
"""A header that claims more is not believed: no camera of faces has so many, and half a gigabyte would be
decoded."""

BAND_PIXELS = 2**20
"""That are converted at once."""

ORIENTATION = 0x0112
"""The EXIF tag of how a picture is to be turned."""

STORED_OF: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}
"""The pixels of an upright picture as they are stored, by its orientation; views. Source: EXIF 2.3, 4.6.4."""

ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations that exchange width and height."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")
"""As Pillow calls them, those first that it knows without loading more. No others, whose decoders are seldom
looked at: PostScript goes to a program of its own."""

HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
"""Source: ISO/IEC 23008-12, annex B, and the brand that phones write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedPicture:
    """A picture, or a part of it, perhaps at a reduced scale."""

    pixels: UInt8[np.ndarray, "part_height part_width 3"]
    """RGB."""
    left: int = 0
    """Where the part begins, px of the picture at its reduced scale."""
    top: int = 0
    width: int
    """Of the picture itself, px."""
    height: int
    reduction: int = 1
    """Each pixel stands for a block of as many by as many pixels of the picture."""

    @property
    def image_to_pixels(self) -> Float[np.ndarray, "3 3"]:
        """From px of the picture to px of `pixels`; a block's pixel lies at its centre."""
        scale = 1 / self.reduction
        shift = (scale - 1) / 2
        return np.array([[scale, 0, shift - self.left], [0, scale, shift - self.top], [0, 0, 1]])


def read_picture(path: Path, *, upright: bool) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a picture; greyscale, palette and CMYK become RGB.

    Args:
        path: of one of `FORMATS`, or HEIC with pillow-heif.
        upright: whether an EXIF rotation is applied, as viewers do. The points of annotations were marked on
            the pixels as they are stored.

    Raises:
        InputError: the file is missing, is no picture, is cut short, claims to be absurdly large, or has
            pixels of 32 bits.
    """
    with _opened(path, str(path)) as picture:
        return _rgb(picture, upright=upright)


def decode_picture(content: bytes, name: str, *, upright: bool) -> UInt8[np.ndarray, "height width 3"]:
    """As `read_picture`, of a file's content.

    Args:
        content: as there; of an animation, the first frame.
        name: for messages.
        upright: whether an EXIF rotation is applied.

    Raises:
        InputError: as for `read_picture`.
    """
    with _opened(io.BytesIO(content), name) as picture:
        return _rgb(picture, upright=upright)


def rgb_of(picture: Image.Image, name: str, *, upright: bool) -> UInt8[np.ndarray, "height width 3"]:
    """As `read_picture`, of a picture that Pillow has opened.

    Args:
        picture: any mode; it is left open.
        name: for messages.
        upright: whether an EXIF rotation is applied.

    Raises:
        InputError: as for `read_picture`.
    """
    with _mistakes_told(name):
        _check_size(picture)
        return _rgb(picture, upright=upright)


def read_part(path: Path, part: FaceBox, reduction: int) -> DecodedPicture:
    """Decode a picture as it is stored, and keep the part around a box; in four bytes a pixel at most.

    A JPEG is decoded at a reduced scale, from fewer coefficients of its cosine transform: quicker, and in
    less memory.

    Args:
        path: of one of `FORMATS`, or HEIC with pillow-heif.
        part: px of the picture; may reach past it.
        reduction: r, one of `JPEG_REDUCTIONS`; pixel i then stands for the pixels r·i … r·(i + 1) - 1.

    Raises:
        InputError: as for `read_picture`.
    """
    with _opened(path, str(path)) as picture:
        width, height = picture.size
        if reduction > 1:
            # The decoder takes the smallest scale of its own that still covers this size.
            picture.draft("RGB", (max(1, width // reduction), max(1, height // reduction)))
        # A format that cannot be reduced while it is decoded comes whole.
        reduction = reduction if picture.width < width else 1
        left, right = _kept(part.left, part.width, reduction, picture.width)
        top, bottom = _kept(part.top, part.height, reduction, picture.height)
        pixels = _rgb(picture.crop((left, top, right, bottom)))
    return DecodedPicture(pixels=pixels, left=left, top=top, width=width, height=height, reduction=reduction)


def _kept(start: float, length: float, reduction: int, size: int) -> tuple[int, int]:
    """The pixels of a reduced picture that hold a stretch of the picture; one at least."""
    first = min(max(0, math.floor((start - 0.5) / reduction)), size - 1)
    last = math.ceil((start + length + 0.5) / reduction)
    return first, min(max(first + 1, last), size)


@contextlib.contextmanager
def _opened(file: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    is_heic, formats = _is_heic(file), FORMATS
    if is_heic:
        with contextlib.suppress(ImportError):
            import pillow_heif  # pyright: ignore[reportMissingImports]

            pillow_heif.register_heif_opener()
            formats = ("HEIF",)
    try:
        with _mistakes_told(name), Image.open(file, formats=formats) as picture:
            _check_size(picture)
            yield picture
    except InputError as mistake:
        if is_heic and isinstance(mistake.__cause__, UnidentifiedImageError):
            raise InputError(
                f"{name}: a HEIC picture, which needs one more package; pip install pillow-heif, or make a "
                "JPEG of it"
            ) from mistake
        raise


def _is_heic(file: Path | io.BytesIO) -> bool:
    try:
        start = file.getvalue()[:12] if isinstance(file, io.BytesIO) else _start_of(file)
    except OSError:
        return False
    return start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def _check_size(picture: Image.Image) -> None:
    if picture.width * picture.height > MOST_PICTURE_PIXELS:
        raise Image.DecompressionBombError


@contextlib.contextmanager
def _mistakes_told(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Such as a broken EXIF block; what cannot be decoded raises.
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError as error:
        raise InputError(f"{name}: the picture is missing; check the name") from error
    except Image.DecompressionBombError as error:  # or Pillow's own, which comes later
        raise InputError(
            f"{name}: the picture claims more than {MOST_PICTURE_PIXELS / 1e6:.0f} million pixels; shrink it "
            "or leave it out"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: not a whole picture (of no format that is read); replace the file or leave it out"
        ) from error
    except Exception as error:  # decoders and EXIF readers fail each in their own way
        raise InputError(
            f"{name}: not a whole picture ({error}); replace the file or leave it out"
        ) from error


def _rgb(picture: Image.Image, *, upright: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a picture, beside which there are never more copies than of a band of it."""
    picture.load()
    orientation = picture.getexif().get(ORIENTATION, 1) if upright else 1
    width, height = picture.size
    pixels = np.empty((width, height, 3) if orientation in ON_ITS_SIDE else (height, width, 3), np.uint8)
    stored = STORED_OF[orientation](pixels) if orientation in STORED_OF else pixels
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        is_whole = bottom - top == height
        stored[top:bottom] = _rgb_band(picture if is_whole else picture.crop((0, top, width, bottom)))
    return pixels


def _rgb_band(band: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if band.mode.startswith("I;16"):
        # Pillow would cut off all above 255.
        return np.stack([(np.asarray(band) >> 8).astype(np.uint8)] * 3, axis=-1)
    if band.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, whose white is anywhere; expected 8 or 16")
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
