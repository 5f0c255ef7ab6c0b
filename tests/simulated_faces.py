"""A network and a detector that know the truth of a generated video, and err as real ones do.

And faces to generate it with, rendered by this project, which only tests may ask for.
"""

import functools
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from fake_faces import Grower

from flm.bench.moving_faces import FacePicture, MovingFrame
from flm.faces.pose import mean_face
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.predictor import GivenFace, Prediction, Predictor
from flm.landmarks import IBUG_68

COLORS = ((224, 172, 140), (120, 80, 60), (250, 214, 190), (170, 120, 90))


@functools.cache
def rendered_faces(count: int) -> list[FacePicture]:
    """Faces of this project's renderer that look ahead."""
    from shards.sources.synthetic import annotations

    ahead = (face for face in annotations(num_faces=400, seed=0) if face.subset == "frontal")
    return [
        FacePicture(
            picture=face.picture.decode(FaceBox.of_picture(256, 256), 1.0).pixels,
            landmarks=face.landmarks_image,
        )
        for face in itertools.islice(ahead, count)
    ]


@functools.cache
def drawn_faces(count: int, size_px: int = 160) -> list[FacePicture]:
    """Faces that differ in colour and in proportions, drawn in no time."""
    faces = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        landmarks = (mean_face()[:, :2] * [random.uniform(0.85, 1.1), 1] - [0, 0.5]) * 0.32 * size_px
        landmarks = landmarks + size_px / 2
        landmarks[48:] += [0, random.uniform(-0.02, 0.03) * size_px]
        picture = np.full((size_px, size_px, 3), (90, 95, 110), np.uint8)
        hull = cv2.convexHull(np.round(landmarks * 16).astype(np.int32))
        cv2.fillConvexPoly(picture, hull, COLORS[seed % len(COLORS)], cv2.LINE_AA, 4)
        for x, y in landmarks[17:].tolist():
            cv2.circle(picture, (round(x * 16), round(y * 16)), 24, (60, 30, 30), -1, cv2.LINE_AA, 4)
        faces.append(FacePicture(picture=picture, landmarks=landmarks))
    return faces


class SimulatedPredictor(Predictor):
    """Answers with the truth of the frame that was shown last, and noise.

    Where one face hides another, it takes the one in front, wherever the box came from, as a network does.

    Args:
        noise: standard deviation of each coordinate, in inter-ocular distances.
        has_score: whether it knows how sure it is.
    """

    name = "simulated"

    def __init__(self, noise: float = 0.01, *, has_score: bool = True, seed: int = 0) -> None:
        super().__init__(Grower(), detector=self)
        self.noise = noise
        self.has_score = has_score
        self.random = np.random.default_rng(seed)
        self.truth: MovingFrame | None = None
        self.num_detections = 0
        self.num_looks = 0

    def show(self, truth: MovingFrame) -> np.ndarray:
        self.truth = truth
        return truth.pixels

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        self.num_detections += 1
        found = []
        for face, share in self.truth.visible.items():
            if share >= 0.5:
                box = self.truth.box(face)
                right, down = self.random.normal(0, 0.04, 2) * box.long_side
                size = box.long_side * self.random.normal(1, 0.04)
                moved = FaceBox(left=box.left + right, top=box.top + down, width=size, height=size)
                found.append(DetectedFace(box_image=moved, score=0.9))
        return sorted(found, key=lambda face: -face.box_image.long_side)

    def predict(self, source: np.ndarray, boxes: Sequence[GivenFace] | None = None) -> list[Prediction]:
        boxes = self.detect(source) if boxes is None else boxes
        return [self._look(box) for box in boxes]

    def _look(self, given: GivenFace) -> Prediction:
        self.num_looks += 1
        box = given if isinstance(given, FaceBox) else given.box_image
        fits = {face: self.truth.box(face).overlap(box) * share for face, share in self.truth.visible.items()}
        face = max(fits, key=fits.__getitem__, default=None)
        if face is None or fits[face] < 0.15:
            landmarks = mean_face()[:, :2] * 0.4 * box.long_side + [box.center_x, box.center_y]
            landmarks = landmarks + self.random.normal(0, 0.1 * box.long_side, (68, 2))
            score = 0.05
        else:
            landmarks = self.truth.landmarks[face]
            unit = float(np.linalg.norm(landmarks[36] - landmarks[45]))
            landmarks = landmarks + self.random.normal(0, self.noise * unit, (68, 2))
            score = 0.95 if self.truth.visible[face] > 0.6 else 0.5
        return Prediction(
            scheme=IBUG_68,
            box_image=box,
            landmarks_image=landmarks,
            covariance_image=None,
            score=score if self.has_score else None,
            detection_score=given.score if isinstance(given, DetectedFace) else None,
        )


def turned_face(face: FacePicture, turn_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """A rendered face in a black frame of 400 px, turned clockwise: the picture and its landmarks."""
    frame = np.zeros((400, 400, 3), np.uint8)
    frame[72:328, 72:328] = face.picture
    matrix = cv2.getRotationMatrix2D((199.5, 199.5), -turn_deg, 1.0)
    picture = np.asarray(cv2.warpAffine(frame, matrix, (400, 400)), np.uint8)
    return picture, (face.landmarks + 72) @ matrix[:, :2].T + matrix[:, 2]


def error_of(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance over that of the outer eye corners."""
    return float(np.linalg.norm(found - truth, axis=1).mean() / np.linalg.norm(truth[36] - truth[45]))


def owner_of(landmarks: np.ndarray, truth: MovingFrame) -> int | None:
    """Whose face landmarks are on."""
    errors = {
        face: float(np.linalg.norm(landmarks - points, axis=1).mean() / truth.box(face).long_side)
        for face, points in truth.landmarks.items()
    }
    best = min(errors, key=errors.__getitem__, default=None)
    return best if best is not None and errors[best] < 0.15 else None
