"""Faces as shapes over a picture, drawn by the browser: sharp at every size, shown and hidden at once.

The coordinates of the SVG are px of the picture: its view begins at -0.5, since an integer is the centre of a
pixel.
"""

import html
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from flm.faces.pose import rotation_matrix
from flm.inference.results.records import Record, landmarks_of
from flm.landmarks import LandmarkScheme

DEVIATIONS = math.sqrt(-2 * math.log(0.1))
"""Half axes of the ellipse that holds 90 % of a normal distribution, in standard deviations."""

LIKELY_WRONG_BELOW = 0.5
"""Of the score, which is the probability that the landmarks are right."""

AXIS_SHARE = 0.45
"""Length of the axes of a head, as a share of the longer side of its landmarks' box."""


def is_doubtful(face: Record) -> bool:
    """Whether the landmarks of a face are likely wrong."""
    return bool(face.get("likely_wrong"))


def mark_doubtful(faces: Sequence[Record], *, is_calibrated: bool) -> None:
    """Say in each record whether its landmarks are likely wrong; without a calibration nobody knows."""
    for face in faces:
        is_low = face["score"] is not None and face["score"] < LIKELY_WRONG_BELOW
        face["likely_wrong"] = is_low if is_calibrated else None


def overlay(
    width: int, height: int, faces: Sequence[Record], scheme: LandmarkScheme, *, is_pressable: bool = True
) -> str:
    """The SVG that lies over a picture.

    Args:
        width: of the picture, px.
        height: of the picture, px.
        faces: their records, in px of that picture.
        scheme: of the landmarks.
        is_pressable: whether each face is a button that selects it.
    """
    groups = "".join(
        face_shapes(face, number, scheme, is_pressable=is_pressable) for number, face in enumerate(faces)
    )
    return (
        f'<svg class="overlay" viewBox="-0.5 -0.5 {width} {height}" role="group" '
        f'aria-label="{count_words(len(faces))} found">{groups}</svg>'
    )


def count_words(count: int) -> str:
    """`1 face`, `2 faces`."""
    return f"{count} face" if count == 1 else f"{count} faces"


def face_shapes(face: Record, number: int, scheme: LandmarkScheme, *, is_pressable: bool = True) -> str:
    """One face; see `overlay`."""
    landmarks = landmarks_of(face)
    side = float(np.ptp(landmarks, axis=0).max())
    parts = [
        _box(face, number, is_pressable=is_pressable),
        _ellipses(face, landmarks),
        _lines(landmarks, scheme),
        _axes(face, landmarks, side),
        _dots(landmarks, side),
        _numbers(landmarks, side),
    ]
    doubt = " doubtful" if is_doubtful(face) else ""
    return f'<g class="face{doubt}" data-face="{number}">{"".join(parts)}</g>'


def differences(first: Record, second: Record, side: float) -> str:
    """Where the second face's landmarks are apart from the first's: dots of both, and what lies between."""
    before, after = landmarks_of(first), landmarks_of(second)
    strokes = "".join(
        f"M{x:.2f} {y:.2f}L{other_x:.2f} {other_y:.2f}"
        for (x, y), (other_x, other_y) in zip(before, after, strict=True)
    )
    return (
        f'<g class="face"><path class="between" d="{strokes}"/>'
        f"{_dots(before, side)}{_dots(after, side, kind='dots other')}</g>"
    )


def _box(face: Record, number: int, *, is_pressable: bool) -> str:
    box = face["box"]
    place = (
        f'x="{box["left"] - 0.5:.2f}" y="{box["top"] - 0.5:.2f}" width="{box["width"]:.2f}" '
        f'height="{box["height"]:.2f}"'
    )
    shown = f'<rect class="box" {place}/>'
    if not is_pressable:
        return shown
    label = html.escape(spoken(face, number))
    return f'{shown}<rect class="press" {place} tabindex="0" role="button" aria-label="{label}"/>'


def spoken(face: Record, number: int) -> str:
    """A face as a screen reader says it."""
    words = [f"Face {number + 1}"]
    if face["score"] is not None:
        words.append(f"score {face['score']:.2f}")
    if is_doubtful(face):
        words.append("likely wrong")
    return ", ".join(words)


def _dots(landmarks: Float[np.ndarray, "points 2"], side: float, kind: str = "dots") -> str:
    radius = max(0.7, 0.011 * side)
    dots = "".join(
        f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}" data-point="{point}"/>'
        for point, (x, y) in enumerate(landmarks)
    )
    return f'<g class="{kind}">{dots}</g>'


def _numbers(landmarks: Float[np.ndarray, "points 2"], side: float) -> str:
    size = max(3.0, 0.028 * side)
    numbers = "".join(
        f'<text x="{x + 0.4 * size:.2f}" y="{y - 0.35 * size:.2f}">{point}</text>'
        for point, (x, y) in enumerate(landmarks)
    )
    return f'<g class="numbers" font-size="{size:.2f}" aria-hidden="true">{numbers}</g>'


def _lines(landmarks: Float[np.ndarray, "points 2"], scheme: LandmarkScheme) -> str:
    strokes = []
    for line in scheme.lines:
        places = " ".join(f"{x:.2f} {y:.2f}" for x, y in landmarks[list(line.points)])
        strokes.append(f"M{places}{'Z' if line.closed else ''}")
    return f'<path class="lines" d="{"".join(strokes)}"/>'


def _ellipses(face: Record, landmarks: Float[np.ndarray, "points 2"]) -> str:
    if face["covariance"] is None:
        return ""
    variances, directions = np.linalg.eigh(np.array(face["covariance"], np.float64))
    half_axes = DEVIATIONS * np.sqrt(np.clip(variances, 0, None))
    angles_deg = np.degrees(np.arctan2(directions[:, 1, 1], directions[:, 0, 1]))
    shapes = "".join(
        f'<ellipse rx="{major:.2f}" ry="{minor:.2f}" '
        f'transform="translate({x:.2f} {y:.2f}) rotate({angle:.1f})"/>'
        for (x, y), (minor, major), angle in zip(landmarks, half_axes, angles_deg, strict=True)
    )
    return f'<g class="ellipses">{shapes}</g>'


def _axes(face: Record, landmarks: Float[np.ndarray, "points 2"], side: float) -> str:
    pose = face["pose"]
    if pose is None:
        return ""
    rotation = rotation_matrix(pose["yaw_deg"], pose["pitch_deg"], pose["roll_deg"])
    x, y = landmarks.mean(axis=0)
    ends = landmarks.mean(axis=0) + AXIS_SHARE * side * rotation[:2].T
    strokes = "".join(
        f'<line class="{name}" x1="{x:.2f}" y1="{y:.2f}" x2="{end_x:.2f}" y2="{end_y:.2f}"/>'
        for name, (end_x, end_y) in zip("xyz", ends, strict=True)
    )
    return f'<g class="axes" aria-hidden="true">{strokes}</g>'
