"""How many faces are found right that lie on their side or stand on their head."""

import numpy as np

from flm.bench.figures import OURS, Figure
from flm.bench.predict.pictures import errors_of, predicted_by
from flm.bench.predict.setting import KnownFace, Setting, known_faces
from flm.inference.predictor import Predictor
from flm.metrics.calibration import FAILURE_NME

SUBJECT = "turned faces that are found right"
ONCE = "looked at once, as they are"
QUARTERS = (1, 2, 3)


def measure_turned(setting: Setting) -> list[Figure]:
    """Each picture in three turns, with the detector's boxes.

    Raises:
        InputError: the shards or the detector cannot be used.
    """
    faces = [
        quarter_turned(face, quarters)
        for face in known_faces(setting.data, setting.split, setting.length.pictures)
        for quarters in QUARTERS
    ]
    ours = setting.predictor
    # Without a calibration nothing tells which looks to trust, and each face is looked at once.
    once = Predictor(ours.network, detector=setting.detector, passes=ours.passes)
    values = {side: share_found_right(one, faces) for side, one in ((OURS, ours), (ONCE, once))}
    how = (
        f"by 90, 180 and 270 degrees, {len(faces)} of {setting.split}, behind {setting.detector.name}; right "
        f"is an error of at most {100 * FAILURE_NME:g} % of the inter-ocular distance"
    )
    return [
        Figure(subject=SUBJECT, side=OURS, unit="%", value=values[OURS], how=how),
        Figure(
            subject=SUBJECT, side=ONCE, unit="%", value=values[ONCE],
            beside=values[OURS] / values[ONCE] if values[ONCE] else None,
        ),
    ]  # fmt: skip


def share_found_right(predictor: Predictor, faces: list[KnownFace]) -> float:
    """In percent; a face that the detector misses is not."""
    find = predicted_by(predictor)
    errors = errors_of([find(face.picture) for face in faces], faces, predictor.scheme)
    return float(100 * (errors <= 100 * FAILURE_NME).mean())


def quarter_turned(face: KnownFace, quarters: int) -> KnownFace:
    """The picture, turned clockwise by so many right angles."""
    picture, landmarks = face.picture, face.landmarks_image
    for _ in range(quarters):
        x, y = landmarks.T
        landmarks = np.stack([picture.shape[0] - 1 - y, x], axis=1)
        picture = np.rot90(picture, -1)
    return KnownFace(picture=np.ascontiguousarray(picture), landmarks_image=landmarks)
