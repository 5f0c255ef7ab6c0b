"""What a tar holds of a face: the picture cut out and resampled once, and its record."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from flm.data.tars import TarSample
from flm.errors import InputError
from flm.geometry import MIN_FACE_PX, FaceBox, region_shown, resample, square_crop, transform_points
from flm.pictures import DecodedPicture
from shards.annotation import FARTHEST_PX, FaceAnnotation
from shards.plan import PlannedSample

FACES_PER_TASK = 8
"""What a worker is handed at once: long against the hand-over, short against the wait of an orderly stop."""

Decoding = Literal["reduced", "full"]


def encode_faces(
    samples: Sequence[PlannedSample], *, crop_size_px: int, crop_margin: float, decode: Decoding = "reduced"
) -> list[TarSample]:
    """What the tars hold of these samples.

    Args:
        samples: faces and their keys.
        crop_size_px: side of the stored crops.
        crop_margin: share of the landmarks' box that is added on each side.
        decode: whether large JPEGs are decoded at a reduced scale.

    Raises:
        InputError: a picture cannot be read, or landmarks do not lie on it.
    """
    return [_encode_face(sample, crop_size_px, crop_margin, decode) for sample in samples]


def _encode_face(sample: PlannedSample, crop_size_px: int, crop_margin: float, decode: Decoding) -> TarSample:
    # Loads torch, which a command line that only parses or refuses should not wait for.
    from flm.data.samples import SampleRecord, encode_sample

    face = sample.face
    image_to_shard = shard_crop_of(face, crop_size_px, crop_margin)
    crop = cut_out(face, image_to_shard, crop_size_px, decode)
    record = SampleRecord(
        scheme=face.scheme,
        landmarks_shard=transform_points(face.landmarks_image, image_to_shard),
        image_to_shard=image_to_shard,
        face_box_image=face.face_box_image,
        subset=face.subset,
        source_file=face.source_file,
        group=face.group,
        mirror_of=face.mirror_of,
    )
    return encode_sample(sample.key, crop, record)


def shard_crop_of(face: FaceAnnotation, crop_size_px: int, crop_margin: float) -> Float[np.ndarray, "3 3"]:
    """From px of the picture to px of the stored crop.

    Raises:
        InputError: the landmarks are no face.
    """
    _check_landmarks(face)
    return square_crop(FaceBox.around(face.landmarks_image), crop_size_px, crop_margin)


def cut_out(
    face: FaceAnnotation, image_to_crop: Float[np.ndarray, "3 3"], size_px: int, decode: Decoding
) -> UInt8[np.ndarray, "size size 3"]:
    """A crop out of the face's picture, RGB.

    Raises:
        InputError: the picture cannot be read, or the landmarks do not lie on it.
    """
    # A picture that the crop shrinks k-fold may be decoded k-fold smaller: the crop shows none of the rest.
    most_reduction = 1 / float(image_to_crop[0, 0]) if decode == "reduced" else 1.0
    picture = face.picture.decode(region_shown(image_to_crop, size_px), most_reduction)
    _check_inside(face, picture)
    return resample(picture.pixels, image_to_crop @ np.linalg.inv(picture.image_to_pixels), size_px)


def _check_landmarks(face: FaceAnnotation) -> None:
    if not (np.abs(face.landmarks_image) <= FARTHEST_PX).all():  # nan neither
        raise InputError(
            f"{face.source_file}: a landmark is not a finite number, or beyond {FARTHEST_PX:g} px; fix or "
            "remove the face"
        )
    if FaceBox.around(face.landmarks_image).long_side <= MIN_FACE_PX:
        raise InputError(
            f"{face.source_file}: all landmarks lie within {MIN_FACE_PX:g} px; fix or remove the face"
        )


def _check_inside(face: FaceAnnotation, picture: DecodedPicture) -> None:
    size = np.array([picture.width, picture.height])
    # A face may be cut by the picture's edge, but not be a whole picture away from it.
    outside = ((face.landmarks_image < -size) | (face.landmarks_image > 2 * size)).any(axis=1)
    if outside.any():
        index = int(outside.argmax())
        x, y = face.landmarks_image[index]
        raise InputError(
            f"{face.source_file}: landmark {index} at ({x:.0f}, {y:.0f}) is far outside the picture of "
            f"{picture.width} by {picture.height} px; fix or remove the face"
        )
