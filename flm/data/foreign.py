"""Samples of shards that someone else made, turned into ours while they are read.

The face is cut out of the picture as conversion would have cut it, each time anew, so every epoch decodes the
whole pictures.
"""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from flm.data.manifest import Manifest
from flm.data.sample_format import SampleFormat
from flm.data.samples import OWN_SAMPLES, SampleDecoder, SampleFormatError, SampleRecord
from flm.fields import parse_json
from flm.geometry import MIN_FACE_PX, FaceBox, resample, square_crop, transform_points
from flm.pictures import MOST_PICTURE_PIXELS


def decoder_of(manifest: Manifest) -> SampleDecoder:
    """What reads the samples of these shards."""
    if manifest.sample_format is None:
        return OWN_SAMPLES
    return ForeignSamples(
        sample_format=manifest.sample_format,
        scheme=manifest.scheme,
        crop_size_px=manifest.crop_size_px,
        crop_margin=manifest.crop_margin,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignSamples:
    """Reads samples of a foreign format."""

    sample_format: SampleFormat
    scheme: str
    crop_size_px: int
    """Side of the crops that come out."""
    crop_margin: float
    """Share of the landmarks' box that they add on each side."""

    @property
    def picture(self) -> str:
        """Extension of the picture."""
        return self.sample_format.picture

    @property
    def annotation(self) -> str:
        """Extension of the annotation."""
        return self.sample_format.annotation

    def decode(
        self,
        key: str,
        picture: bytes,
        annotation: bytes,
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> tuple[UInt8[np.ndarray, "height width 3"], SampleRecord]:
        """As `SampleDecoder.decode`: the crop around the face is cut out of the picture.

        Raises:
            SampleFormatError: the picture or the annotation cannot be used; says why.
        """
        record = self.record(key, picture, annotation)
        # The points were marked on the pixels as they are stored.
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), flags)
        if pixels is None:
            raise SampleFormatError("the picture cannot be decoded or is cut short")
        crop = resample(pixels.astype(np.uint8, copy=False), record.image_to_shard, self.crop_size_px)
        if out is not None:
            out[:] = crop
            crop = out
        return crop, record

    def record(self, key: str, picture: bytes, annotation: bytes) -> SampleRecord:
        """What the annotation says; of the picture only the header is read.

        Raises:
            SampleFormatError: as for `decode`.
        """
        width, height = _picture_size(picture)
        fields, points = self._parse(annotation)
        landmarks = self._to_px(_as_points(points), width, height)
        if not np.isfinite(landmarks).all():
            raise SampleFormatError("a landmark is not a finite number")
        size = np.array([width, height])
        if ((landmarks < -size) | (landmarks > 2 * size)).any():
            raise SampleFormatError(f"a landmark lies far outside the picture of {width} by {height} px")
        truth_box = FaceBox.around(landmarks)
        if truth_box.long_side <= MIN_FACE_PX:
            raise SampleFormatError(f"all landmarks lie within {MIN_FACE_PX:g} px")
        image_to_shard = square_crop(truth_box, self.crop_size_px, self.crop_margin)
        form = self.sample_format
        box = _field(fields, form.box_key) if form.box_key else None
        return SampleRecord(
            scheme=self.scheme,
            landmarks_shard=transform_points(landmarks, image_to_shard),
            image_to_shard=image_to_shard,
            face_box_image=truth_box if box is None else self._box(box, width, height),
            subset=str(_field(fields, form.subset_key)) if form.subset_key else "",
            source_file=key,
            group=str(_field(fields, form.group_key)) if form.group_key else key,
        )

    def _parse(self, annotation: bytes) -> tuple[Mapping[str, Any], Any]:
        """The JSON's fields (none of an array) and the points as they stand there."""
        try:
            if self.sample_format.reads_array:
                return {}, np.load(io.BytesIO(annotation), allow_pickle=False)
            fields = parse_json(annotation)
        except Exception as error:  # numpy reads the header as Python, which fails in many ways
            raise SampleFormatError(f"the .{self.annotation} cannot be read ({error})") from error
        return fields, _field(fields, self.sample_format.landmarks_key)

    def _to_px(
        self, points: Float[np.ndarray, "points 2"], width: int, height: int
    ) -> Float[np.ndarray, "points 2"]:
        if self.sample_format.points == "unit":
            # Refused by the caller where it is not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                return points * np.array([width, height]) - 0.5
        return points - float(self.sample_format.origin)

    def _box(self, values: Any, width: int, height: int) -> FaceBox:
        try:
            left, top, third, fourth = (float(value) for value in values)
            if self.sample_format.box_order == "xyxy":
                third, fourth = third - left, fourth - top
            if self.sample_format.points == "unit":
                # A box covers whole pixels: its left edge lies half a pixel before the first one's centre.
                return FaceBox(
                    left=left * width, top=top * height, width=third * width, height=fourth * height
                )
            origin = self.sample_format.origin
            return FaceBox(left=left - origin, top=top - origin, width=third, height=fourth)
        except (TypeError, ValueError) as error:
            raise SampleFormatError(f"the box {values!r} cannot be used ({error})") from error


def _field(fields: Any, key: str) -> Any:
    """What stands under a key; dots lead into objects."""
    value = fields
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            there = ", ".join(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
            raise SampleFormatError(f"the JSON has no {key!r}; it has {there}")
        value = value[name]
    return value


def _as_points(values: Any) -> Float[np.ndarray, "points 2"]:
    """Pairs, triples (x, y and something else) or a flat list, as pairs."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SampleFormatError(f"the landmarks are no numbers ({error})") from error
    if array.ndim == 1 and array.size % 2 == 0:
        array = array.reshape(-1, 2)
    if array.ndim != 2 or array.shape[1] not in (2, 3) or not len(array):
        raise SampleFormatError(f"the landmarks have shape {array.shape}, expected pairs of x and y")
    return array[:, :2]


def _picture_size(picture: bytes) -> tuple[int, int]:
    """Width and height, from the header.

    Raises:
        SampleFormatError: it is no picture, or claims to be absurdly large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            width, height = Image.open(io.BytesIO(picture)).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleFormatError(f"the picture cannot be read ({error})") from error
    if width * height > MOST_PICTURE_PIXELS:
        raise SampleFormatError(
            f"the picture claims {width}x{height} px, the most is {MOST_PICTURE_PIXELS / 1e6:.0f} million"
        )
    return width, height
