"""The answer to a picture as the page shows it: the picture with its faces, what is known of each, files.

All of it is one piece of HTML, so that nothing of a visitor's picture stays on the server.
"""

import csv
import html
import io
import json
from collections.abc import Sequence

import cv2
import numpy as np
from charts import MINUS
from jaxtyping import UInt8
from overlay import count_words, is_doubtful, mark_doubtful, overlay

from flm.draw import jpeg_uri
from flm.faces.pts_file import pts_text
from flm.inference.aligned import aligned_crop
from flm.inference.predictor import Prediction, Predictor
from flm.inference.results.records import Record, landmarks_of, picture_record, table_columns, table_row
from flm.landmarks import LandmarkScheme

MOST_SHOWN_PX = 1600
"""Longer side of the picture that is sent back."""

MOST_CROPS = 24
"""Of the largest faces; each is some 10 kB of the answer."""

DASH = "\N{EN DASH}"
"""Where nothing is known."""

TOGGLES = (
    ("points", "Points"),
    ("lines", "Lines"),
    ("numbers", "Numbers"),
    ("ellipses", "Uncertainty"),
    ("box", "Box"),
    ("axes", "Pose"),
)
"""What can be shown; page.js hands the choice to page.css."""

DOWNLOADS = (
    ("png", "PNG", "The picture as it is shown"),
    ("json", "JSON", "All that is known of all faces"),
    ("csv", "CSV", "A table with a row a face"),
    ("pts", ".pts", "The landmarks of the chosen face"),
)


def shown(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    """The picture, shrunk where it is larger than any screen needs."""
    scale = MOST_SHOWN_PX / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def answer(
    picture: UInt8[np.ndarray, "height width 3"],
    faces: Sequence[Prediction],
    predictor: Predictor,
    name: str = "picture",
) -> str:
    """The whole answer to a picture.

    Args:
        picture: RGB.
        faces: found in it.
        predictor: that found them.
        name: of the picture, for the files.

    Raises:
        InputError: a landmark is not finite.
    """
    height, width = picture.shape[:2]
    scheme = predictor.scheme
    record = picture_record(name, name, (width, height), faces, scheme)
    mark_doubtful(record["faces"], is_calibrated=predictor.calibration is not None)
    return (
        f'<section class="answer" data-name="{html.escape(name, quote=True)}" '
        f"data-record='{_attribute(json.dumps(record))}' data-csv='{_attribute(csv_text(record, scheme))}' "
        f"data-pts='{_attribute(json.dumps(_pts_texts(record)))}'>"
        f"{_warning(record['faces'])}"
        f'<div class="columns"><div class="main">{figure(picture, record["faces"], scheme)}{toggles()}</div>'
        f"<aside>{_crops(picture, record['faces'], scheme)}{_downloads()}</aside></div>"
        f"{table(record['faces'])}</section>"
    )


def no_face(picture: UInt8[np.ndarray, "height width 3"], scheme: LandmarkScheme) -> str:
    """The answer to a picture without a face."""
    return (
        '<section class="answer"><p class="note" role="status"><strong>No face found.</strong> '
        "Try a picture in which a face is larger, upright and not turned away.</p>"
        f"{figure(picture, [], scheme)}</section>"
    )


def figure(
    picture: UInt8[np.ndarray, "height width 3"], faces: Sequence[Record], scheme: LandmarkScheme
) -> str:
    """The picture, and its faces over it."""
    height, width = picture.shape[:2]
    shapes = overlay(width, height, faces, scheme)
    return under(shapes, picture, f"Your picture, with {count_words(len(faces))}")


def under(shapes: str, picture: UInt8[np.ndarray, "height width 3"], alt: str) -> str:
    """The picture, with an SVG of its size over it."""
    height, width = picture.shape[:2]
    return (
        f'<figure class="stage" style="aspect-ratio:{width}/{height};--ratio:{width / height:.4f}">'
        f'<img src="{jpeg_uri(shown(picture))}" alt="{alt}" width="{width}" height="{height}">'
        f"{shapes}</figure>"
    )


def toggles() -> str:
    """Buttons for what is shown over the picture."""
    buttons = "".join(
        f'<button type="button" class="chip" data-toggle="{name}" aria-pressed="false">{label}</button>'
        for name, label in TOGGLES
    )
    return f'<div class="chips" role="group" aria-label="Shown over the picture">{buttons}</div>'


def table(faces: Sequence[Record]) -> str:
    """A row a face."""
    heads = "".join(
        f'<th scope="col"><abbr title="{title}">{head}</abbr></th>'
        for head, title in (
            ("Score", "How likely the landmarks are right, 0 to 1"),
            ("Yaw", "Degrees; positive looks to the picture's right"),
            ("Pitch", "Degrees; positive looks down"),
            ("Roll", "Degrees; positive is tilted clockwise"),
            ("EAR right", "Eye aspect ratio of the person's right eye; below 0.2 in a blink"),
            ("EAR left", "Eye aspect ratio of the person's left eye; below 0.2 in a blink"),
            ("MAR", "Mouth aspect ratio; 0 where the lips touch"),
        )
    )
    rows = "".join(_row(face, number) for number, face in enumerate(faces))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of faces"><table class="faces">'
        f'<thead><tr><th scope="col">Face</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(face: Record, number: int) -> str:
    pose, openness = face["pose"] or {}, face["openness"] or {}
    cells = [
        *(_number(pose.get(name), ".0f", "°") for name in ("yaw_deg", "pitch_deg", "roll_deg")),
        *(_number(openness.get(name), ".2f") for name in ("right_eye", "left_eye", "mouth")),
    ]
    mark = ' <span class="doubt" title="likely wrong">likely wrong</span>' if is_doubtful(face) else ""
    return (
        f'<tr data-face="{number}"><th scope="row"><button type="button" class="pick" data-face="{number}" '
        f'aria-pressed="false">{number + 1}</button></th><td>{_number(face["score"], ".2f")}{mark}</td>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return DASH if value is None else f"{value:{form}}{unit}".replace("-", MINUS)


def _warning(faces: Sequence[Record]) -> str:
    doubtful = [str(number) for number, face in enumerate(faces, 1) if is_doubtful(face)]
    if not doubtful:
        return ""
    if len(doubtful) == 1:
        subject = "The face" if len(faces) == 1 else f"Face {doubtful[0]}"
        words = f"{subject} is likely wrong."
    else:
        words = f"Faces {', '.join(doubtful[:-1])} and {doubtful[-1]} are likely wrong."
    return (
        f'<p class="note warning" role="alert"><strong>{words}</strong> Profiles, covered '
        "and very small faces are the usual reasons.</p>"
    )


def _crops(
    picture: UInt8[np.ndarray, "height width 3"], faces: Sequence[Record], scheme: LandmarkScheme
) -> str:
    shown_crops = []
    for number, face in enumerate(faces[:MOST_CROPS]):
        try:
            uri = jpeg_uri(aligned_crop(picture, landmarks_of(face), scheme))
        except ValueError:  # landmarks that are all in one place
            continue
        hidden = "" if number == 0 else " hidden"
        score = "" if face["score"] is None else f", score {face['score']:.2f}"
        shown_crops.append(
            f'<figure class="crop" data-face="{number}"{hidden}><img src="{uri}" width="256" height="256" '
            f'alt="Face {number + 1}, upright"><figcaption>Face {number + 1}, upright{score}</figcaption>'
            "</figure>"
        )
    return f'<div class="crops" aria-live="polite">{"".join(shown_crops)}</div>'


def _downloads() -> str:
    buttons = "".join(
        f'<button type="button" class="file" data-download="{kind}" title="{title}">{label}</button>'
        for kind, label, title in DOWNLOADS
    )
    return f'<div class="files" role="group" aria-label="Download">{buttons}</div>'


def csv_text(record: Record, scheme: LandmarkScheme) -> str:
    """The table of a picture's faces as a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table_columns(scheme.num_points))
    writer.writerows(table_row(record, number) for number in range(len(record["faces"])))
    return text.getvalue()


def _pts_texts(record: Record) -> list[str]:
    return [pts_text(landmarks_of(face)) for face in record["faces"]]


def _attribute(text: str) -> str:
    """A text between single quotes, where most of JSON stands as it is."""
    return text.replace("&", "&amp;").replace("'", "&#39;").replace("<", "&lt;").replace("\n", "&#10;")


def thumbnail(
    picture: UInt8[np.ndarray, "height width 3"], height_px: int = 112
) -> UInt8[np.ndarray, "small_height small_width 3"]:
    """A picture as a small button shows it, twice as fine as it is high for sharp screens."""
    width_px = max(1, round(picture.shape[1] * height_px / picture.shape[0]))
    small = cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
