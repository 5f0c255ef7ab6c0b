"""Landmarks of many picture files, written beside their overlays."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.progress import track

from flm.draw import PREDICTION_COLOR, Canvas, write_png
from flm.errors import InputError
from flm.files import write_whole
from flm.geometry import FaceBox
from flm.inference.predictor import Prediction, Predictor
from flm.landmarks import LandmarkScheme
from flm.pictures import read_picture

COORDINATE_DECIMALS = 3
"""A thousandth of a pixel, far below what any network resolves."""

LEGIBLE_SIDE_PX = 480
"""Smaller pictures are enlarged for their overlay, so that 68 dots can be told apart."""


def predict(
    checkpoint: Path, pictures: Sequence[Path], *, out: Path, box: FaceBox | None = None
) -> list[InputError]:
    """Write `NAME.json` and `NAME.png` into a folder for each picture.

    Args:
        checkpoint: a checkpoint's or a run's folder.
        pictures: files; an EXIF rotation is applied, so coordinates are of the picture as viewers show it.
        out: folder, made if missing.
        box: around the face, px of each picture; the whole picture if None.

    Returns:
        What was wrong with the pictures that could not be read; the others are done.

    Raises:
        InputError: there is no checkpoint, the folder cannot be written, or a picture would be replaced.
    """
    named = list(zip(pictures, _names(pictures), strict=True))
    overlays = {(out / f"{name}.png").resolve() for _, name in named}
    for path in pictures:
        if path.resolve() in overlays:
            raise InputError(f"{path}: an overlay of that name would replace it; choose another --out")
    predictor = Predictor.load(checkpoint)
    mistakes = []
    for path, name in track(named, "pictures", transient=True):
        try:
            picture = read_picture(path, upright=True)
        except InputError as mistake:
            mistakes.append(mistake)
            continue
        faces = predictor.predict(picture, None if box is None else [box])
        text = json.dumps(to_json(path, picture, faces)) + "\n"
        write_whole(out / f"{name}.json", text.encode())
        write_png(out / f"{name}.png", overlay(picture, faces, predictor.scheme))
    return mistakes


def to_json(
    path: Path, picture: UInt8[np.ndarray, "height width 3"], faces: Iterable[Prediction]
) -> dict[str, Any]:
    """The faces of a picture, coordinates in px of the picture, 0-based."""
    return {
        "image": str(path),
        "width": picture.shape[1],
        "height": picture.shape[0],
        "faces": [
            {
                "box": dataclasses.asdict(face.box_image),
                "landmarks": np.round(face.landmarks_image, COORDINATE_DECIMALS).tolist(),
                "covariance": None
                if face.covariance_image is None
                else np.round(face.covariance_image, COORDINATE_DECIMALS).tolist(),
            }
            for face in faces
        ],
    }


def overlay(
    picture: UInt8[np.ndarray, "height width 3"], faces: Iterable[Prediction], scheme: LandmarkScheme
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    """The picture with boxes, lines and dots on it."""
    canvas = Canvas(picture, scale=max(1, round(LEGIBLE_SIDE_PX / max(picture.shape[:2]))))
    for face in faces:
        canvas.box(face.box_image)
        canvas.lines(face.landmarks_image, scheme, PREDICTION_COLOR)
        canvas.dots(face.landmarks_image, PREDICTION_COLOR)
    return canvas.picture


def _names(pictures: Sequence[Path]) -> Iterator[str]:
    """A name for each picture's outputs; the second of the same name gets a number, free of other names."""
    stems, taken = {path.stem for path in pictures}, set[str]()
    for path in pictures:
        name = path.stem
        if name in taken:
            numbered = (f"{name}-{number}" for number in itertools.count(2))
            name = next(other for other in numbered if other not in stems and other not in taken)
        taken.add(name)
        yield name
