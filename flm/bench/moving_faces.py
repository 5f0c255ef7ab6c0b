"""A video whose truth is known: pictures of faces that go along known paths over a background.

Each frame is a function of its number, so that a video of any length takes no memory.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int16, UInt8

from flm.errors import InputError
from flm.geometry import FaceBox, transform_points

BACKGROUND_CELL_PX = 120
"""Of the blotches that the background is made of; they show no face."""

NOISE_BANK_PX = 96
"""Frames take their noise out of a field so much larger than they are, each at a place of its own."""

CONTEXT = 0.4
"""Of the longer side of a face's box: how far around it the picture is shown, hair and ears included."""

FEATHER = 0.15
"""Of a face's radius: over which it fades into what is behind it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FacePicture:
    """A picture of one face."""

    picture: UInt8[np.ndarray, "height width 3"]
    """RGB."""
    landmarks: Float64[np.ndarray, "points 2"]
    """Px of the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a face is at one moment."""

    center_x: float
    """Of the middle of its landmarks' box, px of the frame."""
    center_y: float
    size_px: float
    """The longer side of its landmarks' box as it is in the face's own picture, brought to so many px."""
    roll_deg: float = 0.0
    """Clockwise as seen."""
    squeeze: float = 1.0
    """Width over what it was, as of a head that turns."""


FacePath = Callable[[float], Placement | None]
"""Where a face is at a time, s; None where it is not in the video."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MovingFrame:
    """One frame and its truth."""

    number: int
    time_s: float
    pixels: UInt8[np.ndarray, "height width 3"]
    """RGB."""
    landmarks: dict[int, Float64[np.ndarray, "points 2"]]
    """Of each face that is in the video now, by its number; px of the frame, maybe outside it."""
    visible: dict[int, float]
    """Share of each one's landmarks that is in the frame and not behind another face."""

    def box(self, face: int) -> FaceBox:
        """The landmarks' own box."""
        return FaceBox.around(self.landmarks[face])


class MovingFaces:
    """Renders the frames.

    Args:
        faces: numbered from 0; the later ones pass in front of the earlier ones.
        paths: of each.
        width: of the frames, px.
        height: of the frames, px.
        frames_per_s: of the video.
        num_frames: of the video.
        noise: standard deviation of each pixel from frame to frame, grey levels of 255.
        seed: of background and noise.

    Raises:
        InputError: there are not as many paths as faces.
    """

    def __init__(
        self,
        faces: Sequence[FacePicture],
        paths: Sequence[FacePath],
        *,
        width: int = 1280,
        height: int = 720,
        frames_per_s: float = 30.0,
        num_frames: int = 300,
        noise: float = 3.0,
        seed: int = 0,
    ) -> None:
        if len(faces) != len(paths):
            raise InputError(f"{len(paths)} paths for {len(faces)} faces; give one for each")
        self.width, self.height = width, height
        self.frames_per_s, self.num_frames, self.seed = frames_per_s, num_frames, seed
        self._paths = tuple(paths)
        self._faces = [
            _Cutout.of(face, self._largest_px(path)) for face, path in zip(faces, paths, strict=True)
        ]
        random = np.random.default_rng(seed)
        self._background = _blotches(random, width, height)
        bank = random.normal(0, noise, (height + NOISE_BANK_PX, width + NOISE_BANK_PX, 3))
        self._noise: Int16[np.ndarray, "_ _ 3"] = np.round(bank).astype(np.int16)

    def __len__(self) -> int:
        """How many frames there are."""
        return self.num_frames

    def __iter__(self) -> Iterator[MovingFrame]:
        """All frames."""
        return (self.frame(number) for number in range(self.num_frames))

    def frame(self, number: int) -> MovingFrame:
        """One frame, the same each time."""
        time_s = number / self.frames_per_s
        pixels = self._background.copy()
        landmarks: dict[int, Float64[np.ndarray, "points 2"]] = {}
        shown: dict[int, tuple[_Cutout, Float64[np.ndarray, "3 3"]]] = {}
        for face, path in enumerate(self._paths):
            placement = path(time_s)
            if placement is not None:
                cutout = self._faces[face]
                matrix = cutout.placed(placement)
                cutout.paste(pixels, matrix)
                landmarks[face] = transform_points(cutout.landmarks, matrix)
                shown[face] = (cutout, matrix)
        return MovingFrame(
            number=number,
            time_s=time_s,
            pixels=self._noisy(pixels, number),
            landmarks=landmarks,
            visible={face: self._visible(face, landmarks[face], shown) for face in shown},
        )

    def _largest_px(self, path: FacePath) -> float:
        placements = (path(number / self.frames_per_s) for number in range(self.num_frames))
        return max((placement.size_px for placement in placements if placement is not None), default=1.0)

    def _visible(
        self,
        face: int,
        landmarks: Float64[np.ndarray, "points 2"],
        shown: dict[int, tuple["_Cutout", Float64[np.ndarray, "3 3"]]],
    ) -> float:
        x, y = landmarks.T
        seen = (x >= 0) & (y >= 0) & (x <= self.width - 1) & (y <= self.height - 1)
        for other, (cutout, matrix) in shown.items():
            if other > face:
                seen &= cutout.opacity_at(transform_points(landmarks, np.linalg.inv(matrix))) < 0.5
        return float(seen.mean())

    def _noisy(
        self, pixels: UInt8[np.ndarray, "height width 3"], number: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        left, top = np.random.default_rng((self.seed, number)).integers(0, NOISE_BANK_PX, 2).tolist()
        noise = self._noise[top : top + self.height, left : left + self.width]
        return np.asarray(cv2.add(pixels, noise, dtype=cv2.CV_8U), np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Cutout:
    """A face with its surroundings, and how much of it is shown where."""

    picture: UInt8[np.ndarray, "height width 3"]
    opacity: Float32[np.ndarray, "height width"]
    landmarks: Float64[np.ndarray, "points 2"]
    """Px of this picture."""
    size_px: float
    """Longer side of their box."""
    center: Float64[np.ndarray, "2"]
    """Of their box."""

    @classmethod
    def of(cls, face: FacePicture, largest_px: float) -> "_Cutout":
        """Reduce it to what is shown of it, so that a bilinear sample aliases nothing."""
        box = FaceBox.around(face.landmarks)
        shrink = min(1.0, 1.2 * largest_px / box.long_side)
        size = [max(1, round(side * shrink)) for side in face.picture.shape[1::-1]]
        picture = np.asarray(cv2.resize(face.picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        scale = np.array(size) / face.picture.shape[1::-1]
        landmarks = (face.landmarks + 0.5) * scale - 0.5
        box = FaceBox.around(landmarks)
        center = np.array([box.center_x, box.center_y])
        radius = (0.5 + CONTEXT) * box.long_side
        # No further than the picture reaches, so that its edges are not seen.
        reach = np.minimum(center, np.array(size) - 1 - center)
        radii = np.minimum(np.array([0.8 * radius, radius]), np.maximum(reach, 0.5 * box.long_side))
        y, x = np.mgrid[: size[1], : size[0]]
        distance = np.hypot((x - center[0]) / radii[0], (y - center[1]) / radii[1])
        opacity = np.clip((1 - distance) / FEATHER, 0, 1).astype(np.float32)
        return cls(
            picture=picture, opacity=opacity, landmarks=landmarks, size_px=box.long_side, center=center
        )

    def placed(self, placement: Placement) -> Float64[np.ndarray, "3 3"]:
        """The matrix from this picture to the frame."""
        scale, roll = placement.size_px / self.size_px, math.radians(placement.roll_deg)
        turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
        matrix = np.eye(3)
        matrix[:2, :2] = turn @ np.diag([scale * placement.squeeze, scale])
        matrix[:2, 2] = [placement.center_x, placement.center_y] - matrix[:2, :2] @ self.center
        return matrix

    def paste(self, pixels: UInt8[np.ndarray, "height width 3"], matrix: Float64[np.ndarray, "3 3"]) -> None:
        """Draw the face into a frame."""
        height, width = self.opacity.shape
        corners = transform_points(
            np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]]), matrix
        )
        left, top = (max(0, math.floor(v)) for v in corners.min(axis=0).tolist())
        right, bottom = (
            min(side, math.ceil(v) + 1)
            for v, side in zip(corners.max(axis=0).tolist(), pixels.shape[1::-1], strict=True)
        )
        if right <= left or bottom <= top:
            return
        into_part = matrix[:2] - np.array([[0, 0, left], [0, 0, top]])
        size = (right - left, bottom - top)
        face = cv2.warpAffine(self.picture, into_part, size, flags=cv2.INTER_LINEAR)
        opacity = cv2.warpAffine(self.opacity, into_part, size, flags=cv2.INTER_LINEAR)[..., None]
        part = pixels[top:bottom, left:right]
        part[:] = np.round(part + opacity * (face.astype(np.float32) - part)).astype(np.uint8)

    def opacity_at(self, points: Float[np.ndarray, "points 2"]) -> Float32[np.ndarray, " points"]:
        """How much of what is behind is hidden at each point, px of this picture."""
        x, y = np.round(points).astype(int).T
        height, width = self.opacity.shape
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        found = self.opacity[y.clip(0, height - 1), x.clip(0, width - 1)]
        return np.where(inside, found, 0).astype(np.float32)


def _blotches(random: np.random.Generator, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    cells = (height // BACKGROUND_CELL_PX + 2, width // BACKGROUND_CELL_PX + 2, 3)
    small = random.uniform(70, 150, cells[:2])[..., None] + random.uniform(-12, 12, cells)
    large = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.uint8)
