"""Faces that pixels tell all of: discs of a strong colour with landmarks in them. Found without weights."""

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import webdataset

from flm.data.manifest import Manifest, ShardEntry
from flm.data.samples import SampleRecord, encode_sample
from flm.faces.pose import mean_face
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.network import FoundLandmarks
from flm.inference.predictor import Predictor
from flm.landmarks import IBUG_68

COLORS = ((255, 0, 255), (0, 255, 0), (0, 255, 255), (255, 255, 0))
"""Told apart by which channels are high."""
HIGH = 175
LOW = 80

SHAPE = mean_face()[:, :2] - (mean_face()[:, :2].min(0) + mean_face()[:, :2].max(0)) / 2
SHAPE = SHAPE / np.ptp(SHAPE, axis=0).max()
"""Landmarks of a disc of diameter 1 about the origin."""


def masks(picture: np.ndarray) -> list[np.ndarray]:
    """Where each colour is."""
    found = []
    for color in COLORS:
        wanted = [picture[..., i] > HIGH if level else picture[..., i] < LOW for i, level in enumerate(color)]
        found.append(np.logical_and.reduce(wanted))
    return found


class DiscNetwork:
    """The landmarks of the disc that takes up most of a crop, with an error that differs with every pixel."""

    scheme, input_size_px, crop_margin = IBUG_68, 64, 0.25

    def find(self, crops: np.ndarray) -> FoundLandmarks:
        landmarks, covariance = [], []
        for crop in crops:
            mask = max(masks(crop), key=np.count_nonzero)
            rows, columns = np.nonzero(mask)
            area = max(1, len(rows))
            center = np.array([columns.mean(), rows.mean()]) if len(rows) else np.array([32.0, 32.0])
            size = 2 * np.sqrt(area / np.pi)
            error_px = np.random.default_rng(int(crop.astype(np.int64).sum())).normal(0, 0.4, (68, 2))
            landmarks.append((SHAPE * size + center + error_px + 0.5) / self.input_size_px)
            covariance.append(np.tile(np.eye(2) * 1e-4 * (1 if len(rows) > 60 else 100), (68, 1, 1)))
        return FoundLandmarks(
            landmarks_unit=np.array(landmarks, np.float32), covariance_unit=np.array(covariance, np.float32)
        )


class DiscDetector:
    """The box of each disc."""

    name = "discs"

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        faces = []
        for mask in masks(picture):
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
            for left, top, width, height, area in stats[1:].tolist():
                if area > 300:
                    box = FaceBox(left=float(left), top=float(top), width=float(width), height=float(height))
                    faces.append(DetectedFace(box_image=box, score=0.9))
        return sorted(faces, key=lambda face: -face.box_image.long_side)


def disc_predictor() -> Predictor:
    return Predictor(DiscNetwork(), detector=DiscDetector())


def draw_disc(number: int, size_px: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A disc on grey, and its landmarks."""
    picture = np.full((size_px, size_px, 3), 90, np.uint8)
    center, diameter = size_px / 2 - 0.5, size_px / 2
    place = (round(center * 16), round(center * 16))
    cv2.circle(picture, place, round(diameter * 8), COLORS[number % 4], -1, cv2.LINE_AA, shift=4)
    return picture, SHAPE * diameter + center


def write_disc_shards(folder: Path, count: int = 6, split: str = "validation") -> Path:
    """Shards of discs, the four colours in turn, each a group of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, mtime=0) as tar:
        for number in range(count):
            picture, landmarks = draw_disc(number)
            record = SampleRecord(
                scheme="ibug-68", landmarks_shard=landmarks, image_to_shard=np.eye(3),
                face_box_image=FaceBox.around(landmarks), subset="", source_file=f"{number}.png",
                group=str(number),
            )  # fmt: skip
            tar.write(encode_sample(f"{number:04d}", picture, record))
    content = buffer.getvalue()
    name = f"{split}-000000.tar"
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    entry = ShardEntry(name=name, num_samples=count, num_bytes=len(content), sha256=digest)
    Manifest(
        scheme="ibug-68", crop_size_px=256, crop_margin=0.5, source="discs", split_rule="as asked",
        licence="MIT", splits={split: (entry,)}, subsets={split: {"": count}},
    ).write(folder)  # fmt: skip
    return folder
