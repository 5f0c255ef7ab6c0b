"""What a sample is: in a tar (encode beside decode), in memory, and as a batch.

A tar holds two members a sample, as the WebDataset convention has them: `KEY.jpg`, a wide crop around the
face, and `KEY.json`, everything else. The JSON's keys are the fields of `SampleRecord`.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import orjson
import simplejpeg
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from flm.data.sample_format import MOST_CROP_SIDE_PX
from flm.data.tars import TarSample
from flm.geometry import FaceBox
from flm.landmarks import LandmarkScheme, scheme_named

SAMPLE_SCHEMA_VERSION = 1
JPEG_QUALITY = 92
"""With half colour resolution (4:2:0), which decodes a third faster and moves no landmark."""

LANDMARK_DECIMALS = 4
"""A ten-thousandth of a pixel, also after a crop was shrunk tenfold far below the error of any annotation."""


_TEXTS = ("subset", "source_file", "group")
"""Fields of a `SampleRecord` that a stranger's JSON might have as something else."""


class SampleFormatError(ValueError):
    """The bytes of a sample are not what the schema says; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRecord:
    """The JSON of a sample.

    Raises:
        SampleFormatError: a field does not fit the others.
    """

    scheme: str
    landmarks_shard: Float[np.ndarray, "points 2"]
    """Px of the stored crop."""
    image_to_shard: Float[np.ndarray, "3 3"]
    """From px of the source picture to px of the stored crop."""
    face_box_image: FaceBox
    """The box that the annotation came with, px of the source picture."""
    subset: str
    """The parts of the data set that reports name, such as `common/helen` or `blur+occlusion`."""
    source_file: str
    """Path of the picture inside its data set."""
    group: str
    """Samples of one group show one photo (twins, several faces) and never straddle splits."""
    mirror_of: str | None = None
    """For a `_mirror` twin: the source file of the original."""

    def __post_init__(self) -> None:
        scheme = scheme_named(self.scheme)
        if self.landmarks_shard.shape != (scheme.num_points, 2):
            raise SampleFormatError(
                f"landmarks_shard has shape {self.landmarks_shard.shape}, "
                f"expected ({scheme.num_points}, 2) for {scheme.name}"
            )
        # One sum is cheaper than a look at each, and every sample passes here.
        if not math.isfinite(self.landmarks_shard.sum()):
            raise SampleFormatError("landmarks_shard has a coordinate that is not finite")
        if not _keeps_orientation(self.image_to_shard):
            raise SampleFormatError("image_to_shard is no invertible affine matrix that keeps orientation")

    def to_json(self) -> bytes:
        """The bytes of `KEY.json`: one line, keys in the order of the fields, no spaces."""
        fields: dict[str, Any] = {"schema_version": SAMPLE_SCHEMA_VERSION}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "landmarks_shard":
                value = np.round(value, LANDMARK_DECIMALS).tolist()
            elif isinstance(value, np.ndarray):
                value = value.tolist()
            elif isinstance(value, FaceBox):
                value = dataclasses.asdict(value)
            fields[field.name] = value
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "SampleRecord":
        """Read the bytes of `KEY.json`.

        Raises:
            SampleFormatError: not JSON, an unknown schema version, or a field that is missing or malformed.
        """
        try:
            fields = orjson.loads(text)
            version = fields.pop("schema_version")
            if version != SAMPLE_SCHEMA_VERSION:
                raise SampleFormatError(f"schema_version {version}, expected {SAMPLE_SCHEMA_VERSION}")
            for name in _TEXTS:
                if not isinstance(fields[name], str):
                    raise SampleFormatError(f"{name} is {fields[name]!r}, expected a text")
            if not isinstance(fields.get("mirror_of"), str | None):
                raise SampleFormatError(f"mirror_of is {fields['mirror_of']!r}, expected a text or null")
            fields["landmarks_shard"] = np.asarray(fields["landmarks_shard"], dtype=np.float64)
            fields["image_to_shard"] = np.asarray(fields["image_to_shard"], dtype=np.float64)
            fields["face_box_image"] = FaceBox(
                **{side: float(value) for side, value in fields["face_box_image"].items()}
            )
            return cls(**fields)
        except SampleFormatError:
            raise
        except KeyError as error:
            raise SampleFormatError(f"the field {error} is missing") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise SampleFormatError(f"not a sample record: {error}") from error


def _keeps_orientation(a_to_b: Float[np.ndarray, "3 3"]) -> bool:
    (a, b, _), (c, d, _), last = a_to_b.tolist()
    return 0 < a * d - b * c < math.inf and math.isfinite(a_to_b.sum()) and last == [0, 0, 1]


def encode_sample(key: str, crop: UInt8[np.ndarray, "size size 3"], record: SampleRecord) -> TarSample:
    """The members of a sample, as `OwnSamples` reads them.

    Args:
        key: name of the two members, without a dot.
        crop: RGB.
        record: what the picture shows.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), options)
    return {"__key__": key, "jpg": jpeg.tobytes(), "json": record.to_json()}


def decode_crop(
    jpeg: bytes, out: UInt8[np.ndarray, "size size 3"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """The stored crop, RGB.

    Args:
        jpeg: its bytes.
        out: where the pixels go if they are of this size; it is what is then returned.

    Raises:
        SampleFormatError: the bytes are no JPEG, it is cut short or damaged, or its header claims an absurd
            size.
    """
    height, width = crop_shape(jpeg)
    if out is not None and out.shape != (height, width, 3):
        out = None
    try:
        # libjpeg-turbo by itself: two thirds of the time that OpenCV takes with its own copy of it.
        return simplejpeg.decode_jpeg(jpeg, buffer=out)
    except ValueError as error:
        raise SampleFormatError(f"the picture is no whole JPEG ({error})") from error


def crop_shape(jpeg: bytes) -> tuple[int, int]:
    """Height and width of a stored crop, as its header claims; nothing is decoded.

    Raises:
        SampleFormatError: the bytes are no JPEG, or they claim an absurd size.
    """
    try:
        height, width = map(int, simplejpeg.decode_jpeg_header(jpeg)[:2])
    except ValueError as error:
        raise SampleFormatError(f"the picture is no whole JPEG ({error})") from error
    if max(width, height) > MOST_CROP_SIDE_PX:
        raise SampleFormatError(
            f"the picture claims {width}x{height} px, a stored crop has at most "
            f"{MOST_CROP_SIDE_PX}x{MOST_CROP_SIDE_PX}"
        )
    return height, width


@runtime_checkable
class SampleDecoder(Protocol):
    """Makes a crop and its record out of two members of a sample."""

    @property
    def picture(self) -> str:
        """Extension of the member with the picture."""
        ...

    @property
    def annotation(self) -> str:
        """Extension of the member with the landmarks."""
        ...

    def decode(
        self,
        key: str,
        picture: bytes,
        annotation: bytes,
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> tuple[UInt8[np.ndarray, "height width 3"], SampleRecord]:
        """The crop, RGB, and its record.

        Args:
            key: of the sample.
            picture: bytes of its picture.
            annotation: bytes of its annotation.
            out: where the pixels go if they are of this size; it is what is then returned.

        Raises:
            SampleFormatError: the bytes are not what the schema says.
        """
        ...


@dataclass(frozen=True, slots=True)
class OwnSamples:
    """Reads samples as `encode_sample` writes them."""

    picture: str = "jpg"
    annotation: str = "json"

    def decode(
        self,
        key: str,  # noqa: ARG002
        picture: bytes,
        annotation: bytes,
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> tuple[UInt8[np.ndarray, "height width 3"], SampleRecord]:
        """As `SampleDecoder.decode`."""
        record = SampleRecord.from_json(annotation)
        return decode_crop(picture, out), record


OWN_SAMPLES = OwnSamples()


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Samples as the loader hands them over, on the CPU, not augmented."""

    crops_shard: UInt8[Tensor, "batch 3 height width"]
    """RGB, the stored wide crops."""
    landmarks_shard: Float32[Tensor, "batch points 2"]
    """Px of the stored crop."""
    shard_to_crop: Float32[Tensor, "batch 3 3"]
    """To the model input, before augmentation: the face box with the network's margin."""
    valid: Bool[Tensor, " batch"]
    """False for rows that only pad the last batches of an evaluation."""
    positions: Int64[Tensor, " batch"]
    """Place of each row in the order of the run (training) or of the split (evaluation)."""
    first_row: int
    """Place of row 0 in the global batch; augmentation is drawn by the row of the global batch."""
    step: int
    """Which global batch this is part of."""
    keys: tuple[str, ...]
    subsets: tuple[str, ...]
    scheme: LandmarkScheme
    jpegs: tuple[bytes, ...] = ()
    """The stored crops as they lie in the tar, while `crops_shard` is still without pixels."""
    bad_samples: tuple[str, ...] = ()
    """Shard and key of samples that could not be used and whose rows show others, see `LoaderConfig`."""

    def __len__(self) -> int:
        return len(self.keys)

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader where an accelerator is present."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, copied without waiting where the memory is pinned."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def split(self, rows: int) -> list["Batch"]:
        """Parts of at most that many rows, in order, for gradient accumulation."""
        return [self._slice(i, i + rows) for i in range(0, len(self), rows)]

    def _slice(self, start: int, stop: int) -> "Batch":
        part = self._with_tensors(lambda tensor: tensor[start:stop])
        return dataclasses.replace(
            part,
            keys=self.keys[start:stop],
            subsets=self.subsets[start:stop],
            jpegs=self.jpegs[start:stop],
            first_row=self.first_row + start,
        )

    def _with_tensors(self, change: Any) -> "Batch":
        tensors = {
            field.name: change(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **tensors)
