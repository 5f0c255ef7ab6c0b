"""From a picture of 1,280 × 720 to landmarks, detection included: how many a second, and how far off."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8

from flm.bench.figures import OURS, Bar, Figure, missing
from flm.bench.measure import Clock, Turns, per_second, take_turns
from flm.bench.predict.peers import Cascade, Dlib, reference_network
from flm.bench.predict.setting import KnownFace, Setting, known_faces
from flm.errors import InputError
from flm.inference.predictor import Predictor
from flm.landmarks import IBUG_68, LandmarkScheme
from flm.metrics.nme import nme

SUBJECT, ERROR, FOUND = "picture to landmarks", "error on these pictures", "faces found on these pictures"
DLIB_BAR = Bar("at least", 2.0, is_of_ratio=True)
REFERENCE_BAR = Bar("at least", 3.0, is_of_ratio=True)
ERROR_BAR = Bar("at least", 1.0, is_of_ratio=True)
NEAR = 0.5
"""Share of the face's size that the middle of found landmarks may be off; further away is another face."""

DLIB = "dlib"
HALF_DLIB = "dlib, looking at half the size"
REFERENCE = "the reference application's way"

Landmarks = Float64[np.ndarray, "points 2"]
Finder = Callable[[UInt8[np.ndarray, "height width 3"]], list[Landmarks]]
"""The landmarks of all faces of a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Another way from a picture to landmarks."""

    side: str
    find: Finder
    how: str
    bar: Bar | None = None
    has_landmarks: bool = True
    """Whether they are ones that can be compared with the truth."""


def measure_pictures(setting: Setting, clock: Clock = time.perf_counter) -> list[Figure]:
    """Ours and the peers on the same pictures, in turns.

    Raises:
        InputError: the shards or the detector cannot be used.
    """
    faces = known_faces(setting.data, setting.split, setting.length.pictures)
    ours = Peer(
        side=OURS,
        find=predicted_by(setting.predictor),
        how=f"{setting.detector.name} and the network; {len(faces)} faces of {setting.split}, each at 35 to "
        "100 % of the height of a frame whose rest is its crop's edge",
    )
    peers, absent = _peers(setting)
    found: dict[str, list[list[Landmarks]]] = {}

    def turn(one: Peer) -> float:
        its = found[one.side] = []
        return per_second(lambda face: its.append(one.find(face.picture)), faces, clock)

    turns = take_turns(
        {one.side: functools.partial(turn, one) for one in (ours, *peers)}, setting.length.turns
    )
    errors = {
        one.side: errors_of(found[one.side], faces, setting.predictor.scheme)
        for one in (ours, *peers)
        if one.has_landmarks
    }
    return [
        _speed(ours, turns), *(_speed(peer, turns) for peer in peers), *absent,
        *_error_figures(errors), *_found_figures(found, faces),
    ]  # fmt: skip


def predicted_by(predictor: Predictor) -> Finder:
    """As a predictor finds them, with its detector."""
    return lambda picture: [face.landmarks_image for face in predictor.predict(picture)]


def _peers(setting: Setting) -> tuple[list[Peer], list[Figure]]:
    """Those that can be had, and why others cannot."""
    peers, absent = [], []
    try:
        dlib = Dlib(setting.dlib_model)
        has_landmarks = dlib.has_predictor and setting.predictor.scheme is IBUG_68
    except InputError as mistake:
        absent.append(missing(SUBJECT, DLIB, str(mistake), unit="pictures/s", bar=DLIB_BAR))
    else:
        what = (
            "its detector and its 68-point predictor"
            if dlib.has_predictor
            else "its detector alone, which flatters it: no file of its predictor is given (--dlib-model)"
        )
        peers += [
            Peer(
                side=DLIB, find=dlib.faces, bar=DLIB_BAR, has_landmarks=has_landmarks,
                how=f"{what}; the whole frame, one thread, as it has no more",
            ),
            Peer(
                side=HALF_DLIB, find=lambda picture: _at_half(dlib, picture), has_landmarks=has_landmarks,
                how="the same at the size that our detector looks at, where it misses smaller faces",
            ),
        ]  # fmt: skip
    try:
        detector, its = Cascade(), "OpenCV's cascade"
    except InputError as mistake:
        detector, its = setting.detector, f"our detector ({mistake})"
    reference = Predictor(reference_network(), detector=detector)
    peers.append(
        Peer(
            side=REFERENCE, find=predicted_by(reference), bar=REFERENCE_BAR, has_landmarks=False,
            how=f"its network, PyTorch, float32, behind {its}; random weights",
        )
    )  # fmt: skip
    return peers, absent


def _at_half(dlib: Dlib, picture: UInt8[np.ndarray, "height width 3"]) -> list[Landmarks]:
    half = np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
    return [2 * landmarks + 0.5 for landmarks in dlib.faces(half)]


def nearest(found: Sequence[Landmarks], truth: Landmarks) -> Landmarks | None:
    """The landmarks of that face among those found; None where it was missed."""
    size = float(np.ptp(truth, axis=0).max())
    distances = [
        float(np.linalg.norm((one.min(0) + one.max(0) - truth.min(0) - truth.max(0)) / 2)) for one in found
    ]
    if not distances or not min(distances) <= NEAR * size:
        return None
    return found[int(np.argmin(distances))]


def errors_of(
    found: Sequence[Sequence[Landmarks]], faces: Sequence[KnownFace], scheme: LandmarkScheme
) -> Float64[np.ndarray, " faces"]:
    """NME of each face by inter-ocular distance, %; not a number where it was missed."""
    errors = np.full(len(faces), np.nan)
    for row, (some, face) in enumerate(zip(found, faces, strict=True)):
        landmarks = nearest(some, face.landmarks_image)
        if landmarks is not None:
            predicted, truth = (
                torch.from_numpy(np.array(one))[None] for one in (landmarks, face.landmarks_image)
            )
            errors[row] = 100 * nme(predicted, truth, scheme).item()
    return errors


def _speed(one: Peer, turns: Turns) -> Figure:
    is_ours = one.side == OURS
    return Figure(
        subject=SUBJECT,
        side=one.side,
        unit="pictures/s",
        value=turns.median(one.side),
        beside=None if is_ours else turns.ratio(OURS, one.side),
        bar=one.bar,
        how=one.how,
    )


def _error_figures(errors: dict[str, Float64[np.ndarray, " faces"]]) -> list[Figure]:
    """Of the faces that both sides found, so that who misses the hard ones gains nothing."""
    ours, figures = errors[OURS], []
    found = np.isfinite(ours)
    if not found.any():
        return [missing(ERROR, OURS, "no face was found", unit="NME, %")]
    figures.append(
        Figure(
            subject=ERROR, side=OURS, unit="NME, %", value=float(ours[found].mean()),
            how=f"of the {found.sum()} faces that it found, by inter-ocular distance",
        )
    )  # fmt: skip
    for side, theirs in errors.items():
        both = found & np.isfinite(theirs)
        if side != OURS and both.any():
            value, beside = float(theirs[both].mean()), float(theirs[both].mean() / ours[both].mean())
            how = f"of the {both.sum()} faces that both found, on which ours has {ours[both].mean():.2f} %"
            bar = ERROR_BAR if side == DLIB else None
            figures.append(
                Figure(subject=ERROR, side=side, unit="NME, %", value=value, beside=beside, bar=bar, how=how)
            )
    if DLIB not in errors:
        why = "it needs the file of its predictor; see --dlib-model"
        figures.append(missing(ERROR, DLIB, why, unit="NME, %", bar=ERROR_BAR))
    return figures


def _found_figures(found: dict[str, list[list[Landmarks]]], faces: Sequence[KnownFace]) -> list[Figure]:
    return [
        Figure(subject=FOUND, side=side, unit=f"of {len(faces)}", value=float(_num_found(some, faces)))
        for side, some in found.items()
    ]


def _num_found(found: Sequence[Sequence[Landmarks]], faces: Sequence[KnownFace]) -> int:
    pairs = zip(found, faces, strict=True)
    return sum(nearest(one, face.landmarks_image) is not None for one, face in pairs)
