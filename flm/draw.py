"""Landmarks, uncertainty and boxes onto a picture; pictures onto a sheet.

Pictures are RGB. What is handed in is never changed.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from flm.files import write_whole
from flm.geometry import FaceBox
from flm.landmarks import LandmarkScheme

Color = tuple[int, int, int]
"""Red, green, blue."""

TRUTH_COLOR: Color = (90, 255, 130)
PREDICTION_COLOR: Color = (255, 70, 220)
"""Green and magenta differ for colour-blind readers too, and neither is a colour of skin."""

ERROR_COLOR: Color = (255, 255, 255)
BOX_COLOR: Color = (255, 210, 60)
TEXT_COLOR: Color = (235, 235, 235)
_OUTLINE_COLOR: Color = (20, 20, 20)
_BACKGROUND_COLOR: Color = (24, 26, 30)
_PAGE_JPEG_QUALITY = 78
_SUBPIXEL_BITS = 4
"""OpenCV takes sixteenths of a pixel."""


class Canvas:
    """A picture that is being drawn on, enlarged so that thin lines and small dots stay fine.

    All coordinates are px of the picture that was handed in, whatever the enlargement.
    """

    def __init__(self, picture: UInt8[np.ndarray, "height width 3"], scale: int = 1) -> None:
        """Copy a picture.

        Args:
            picture: RGB.
            scale: whole number of times that it is enlarged.

        Raises:
            ValueError: the scale is below 1.
        """
        if scale < 1:
            raise ValueError(f"a canvas is enlarged {scale} times, expected at least 1")
        self._scale = scale
        # INTER_LINEAR, as everything here, keeps the middle of each pixel in the middle of its block.
        enlarged = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        self._pixels = np.array(enlarged, dtype=np.uint8)

    @property
    def picture(self) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
        """What has been drawn so far."""
        return self._pixels.copy()

    def lines(
        self,
        landmarks: Float[np.ndarray, "points 2"],
        scheme: LandmarkScheme,
        color: Color,
    ) -> "Canvas":
        """Join the landmarks of brows, eyes, lips and so on.

        Args:
            landmarks: px of the picture.
            scheme: says which ones.
            color: of the lines.
        """
        for line in scheme.lines:
            strokes = [self._fixed_point(landmarks[list(line.points)])]
            cv2.polylines(self._pixels, strokes, line.closed, color, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self

    def dots(
        self, landmarks: Float[np.ndarray, "points 2"], color: Color, radius_px: float | None = None
    ) -> "Canvas":
        """A dot with a thin dark rim on each landmark.

        Args:
            landmarks: px of the picture.
            color: of the dots.
            radius_px: in the enlarged picture; by default it grows with the face.
        """
        radius_px = self._dot_radius_px(landmarks) if radius_px is None else radius_px
        centers = self._fixed_point(landmarks)
        for around, tint in ((0.5, _OUTLINE_COLOR), (0.0, color)):
            radius = round((radius_px + around) * 2**_SUBPIXEL_BITS)
            for x, y in centers.tolist():
                cv2.circle(self._pixels, (x, y), radius, tint, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self

    def segments(
        self,
        start: Float[np.ndarray, "points 2"],
        end: Float[np.ndarray, "points 2"],
        color: Color = ERROR_COLOR,
    ) -> "Canvas":
        """A line from each point to its counterpart, such as from truth to prediction; px of the picture."""
        pairs = np.stack([self._fixed_point(start), self._fixed_point(end)], axis=1)
        cv2.polylines(self._pixels, list(pairs), False, color, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self

    def ellipses(
        self,
        landmarks: Float[np.ndarray, "points 2"],
        covariance: Float[np.ndarray, "points 2 2"],
        color: Color,
        deviations: float = 2.0,
    ) -> "Canvas":
        """The uncertainty of each landmark.

        Args:
            landmarks: px of the picture.
            covariance: px² of the picture.
            color: of the ellipses.
            deviations: half axes in standard deviations; 2 hold 86 % of a normal distribution.
        """
        variances, directions = np.linalg.eigh(covariance)
        half_axes = deviations * self._scale * np.sqrt(np.clip(variances, 0, None))
        angles_deg = np.degrees(np.arctan2(directions[:, 1, 1], directions[:, 0, 1]))
        for center, (minor, major), angle in zip(
            self._fixed_point(landmarks).tolist(), self._rounded(half_axes).tolist(), angles_deg, strict=True
        ):
            cv2.ellipse(
                self._pixels, center, (major, minor), angle, 0, 360, color, 1, cv2.LINE_AA, _SUBPIXEL_BITS
            )
        return self

    def box(self, box: FaceBox, color: Color = BOX_COLOR, width_px: int = 1) -> "Canvas":
        """The edges of a box in px of the picture; they run around the pixels that it covers."""
        left, top = box.left - 0.5, box.top - 0.5
        corners = np.array([[left, top], [left + box.width, top + box.height]])
        start, end = self._fixed_point(corners).tolist()
        cv2.rectangle(self._pixels, start, end, color, width_px, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self

    def label(self, text: str, x: float, y: float, color: Color = TEXT_COLOR) -> "Canvas":
        """Words on a dark ground, whose lower left corner is at a point, px of the picture."""
        font, font_px, height, gap = cv2.FontFace("sans"), 16, 22, 4
        width = cv2.getTextSize((0, 0), text, (0, 0), font, font_px)[2] + 2 * gap
        left, bottom = (round((place + 0.5) * self._scale - 0.5) for place in (x, y))
        # Inside the picture, wherever the point is.
        left = max(0, min(left, self._pixels.shape[1] - width))
        bottom = max(height, min(bottom, self._pixels.shape[0]))
        cv2.rectangle(self._pixels, (left, bottom - height), (left + width, bottom), _OUTLINE_COLOR, -1)
        cv2.putText(self._pixels, text, (left + gap, bottom - 5), color, font, font_px)
        return self

    def caption(self, text: str) -> "Canvas":
        """Put a bar with text under the picture."""
        self._pixels = np.concatenate([self._pixels, _bar(self._pixels.shape[1], [(text, TEXT_COLOR)])])
        return self

    def _dot_radius_px(self, landmarks: Float[np.ndarray, "points 2"]) -> float:
        finite = landmarks[np.isfinite(landmarks).all(axis=1)]
        face_px = self._scale * float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
        return float(np.clip(0.006 * face_px, 1.5, 8.0))

    def _fixed_point(self, points: Float[np.ndarray, "points 2"]) -> np.ndarray:
        """Px of the picture as OpenCV's whole numbers, in the enlarged picture."""
        return self._rounded((points + 0.5) * self._scale - 0.5)

    @staticmethod
    def _rounded(lengths_px: np.ndarray) -> np.ndarray:
        # Far outside any picture, so that a diverged prediction does not overflow.
        fixed = np.nan_to_num(lengths_px, nan=-1e5, posinf=1e5, neginf=-1e5).clip(-1e5, 1e5)
        return np.round(fixed * 2**_SUBPIXEL_BITS).astype(np.int32)


def compare(
    picture: UInt8[np.ndarray, "height width 3"],
    *,
    truth: Float[np.ndarray, "points 2"],
    prediction: Float[np.ndarray, "points 2"],
    scheme: LandmarkScheme,
    caption: str | None = None,
    scale: int = 2,
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    """A prediction over the truth, with a line from each true point to the predicted one.

    Args:
        picture: RGB.
        truth: px of the picture.
        prediction: px of the picture.
        scheme: of both.
        caption: text of a bar below.
        scale: whole number of times that the picture is enlarged.
    """
    canvas = Canvas(picture, scale).segments(truth, prediction)
    canvas.lines(truth, scheme, TRUTH_COLOR).lines(prediction, scheme, PREDICTION_COLOR)
    canvas.dots(truth, TRUTH_COLOR).dots(prediction, PREDICTION_COLOR)
    return canvas.picture if caption is None else canvas.caption(caption).picture


def contact_sheet(
    tiles: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int, legend: Mapping[str, Color] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures in rows, each at the top left of a cell that is as large as the largest.

    Args:
        tiles: RGB; row by row.
        columns: number of tiles in a row.
        legend: words that stand above the tiles, and their colours.

    Raises:
        ValueError: there is no tile, or no column.
    """
    if not tiles or columns < 1:
        raise ValueError(f"a contact sheet of {len(tiles)} tiles in {columns} columns, expected at least 1")
    gap = 6
    columns = min(columns, len(tiles))
    cell_height, cell_width = np.max([tile.shape[:2] for tile in tiles], axis=0) + gap
    num_rows = -(-len(tiles) // columns)
    shape = (num_rows * cell_height + gap, columns * cell_width + gap, 3)
    sheet = np.full(shape, _BACKGROUND_COLOR, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        top, left = gap + row * cell_height, gap + column * cell_width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return np.concatenate([_bar(sheet.shape[1], list(legend.items())), sheet]) if legend else sheet


def _bar(width_px: int, texts: Sequence[tuple[str, Color]]) -> UInt8[np.ndarray, "bar_height width 3"]:
    """A strip of words side by side, smaller where they would not fit."""
    font, font_px, height, gap = cv2.FontFace("sans"), 15, 26, 8
    bar = np.full((height, width_px, 3), _BACKGROUND_COLOR, dtype=np.uint8)
    widths = [cv2.getTextSize((0, 0), text, (0, 0), font, font_px)[2] + gap for text, _ in texts]
    font_px = min(font_px, font_px * (width_px - gap) // max(1, sum(widths)))
    x = gap
    for text, color in texts:
        (x, _), _ = cv2.putText(bar, text, (x, height - 8), color, font, max(7, font_px))
        x += gap
    return bar


def encode_png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The bytes of a PNG file."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def jpeg_uri(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """A picture as it stands in a page of HTML: a data URI."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _PAGE_JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def write_png(path: Path, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write a picture, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    write_whole(path, encode_png(picture))
