"""What is told of the faces of a picture: one record, from which every format is written.

Coordinates are px of the picture as viewers show it, 0-based, an integer is the centre of a pixel.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flm.errors import InputError
from flm.inference.predictor import Prediction
from flm.landmarks import LandmarkScheme

COORDINATE_DECIMALS = 3
"""A thousandth of a pixel, far below what any network resolves."""

SHARE_DECIMALS = 4
ANGLE_DECIMALS = 2

Record = dict[str, Any]


def picture_record(
    name: str, image: str, size: tuple[int, int], faces: Sequence[Prediction], scheme: LandmarkScheme
) -> Record:
    """The faces of a picture.

    Args:
        name: of the picture's results.
        image: its path or URL.
        size: width and height, px.
        faces: in the order of the record.
        scheme: of their landmarks.

    Raises:
        InputError: a landmark is not finite.
    """
    return {
        "name": name,
        "image": image,
        "width": size[0],
        "height": size[1],
        "scheme": scheme.name,
        "faces": [face_record(face, image) for face in faces],
    }


def face_record(face: Prediction, image: str) -> Record:
    """One face.

    Args:
        face: the face.
        image: its picture, for messages.

    Raises:
        InputError: a landmark is not finite, or its covariance.
    """
    found = (face.landmarks_image, *([] if face.covariance_image is None else [face.covariance_image]))
    if not all(np.isfinite(numbers).all() for numbers in found):
        raise InputError(f"{image}: the network gives landmarks that are not finite; it has diverged")
    return {
        "box": _rounded_fields(face.box_image, COORDINATE_DECIMALS),
        "score": _rounded(face.score, SHARE_DECIMALS),
        "detection_score": _rounded(face.detection_score, SHARE_DECIMALS),
        "pose": _rounded_fields(face.pose, ANGLE_DECIMALS),
        "openness": _rounded_fields(face.openness, SHARE_DECIMALS),
        "landmarks": np.round(face.landmarks_image, COORDINATE_DECIMALS).tolist(),
        "covariance": None
        if face.covariance_image is None
        else np.round(face.covariance_image, COORDINATE_DECIMALS).tolist(),
    }


def landmarks_of(face: Record) -> Float[np.ndarray, "points 2"]:
    """The landmarks of a face's record."""
    return np.array(face["landmarks"], dtype=np.float64).reshape(-1, 2)


def table_columns(num_points: int) -> list[str]:
    """The columns of a table with a row a face."""
    return [
        *("image", "face", "score", "detection_score", "box_left", "box_top", "box_width", "box_height"),
        *("yaw_deg", "pitch_deg", "roll_deg", "right_eye", "left_eye", "mouth"),
        *(f"{axis}{point}" for point in range(num_points) for axis in "xy"),
    ]


def table_row(record: Record, number: int) -> list[str | float | int | None]:
    """A face of a picture's record, in the order of `table_columns`."""
    face = record["faces"][number]
    box, pose, openness = face["box"], face["pose"] or {}, face["openness"] or {}
    return [
        *(record["image"], number, face["score"], face["detection_score"]),
        *(box["left"], box["top"], box["width"], box["height"]),
        *(pose.get(name) for name in ("yaw_deg", "pitch_deg", "roll_deg")),
        *(openness.get(name) for name in ("right_eye", "left_eye", "mouth")),
        *(coordinate for point in face["landmarks"] for coordinate in point),
    ]


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)


def _rounded_fields(value: Any, decimals: int) -> dict[str, float] | None:
    if value is None:
        return None
    return {name: round(number, decimals) for name, number in dataclasses.asdict(value).items()}
