"""How long the landmarks of a face take whose box is known, crop and uncertainty included."""

import time
from collections.abc import Callable, Sequence

from flm.bench.figures import OURS, Bar, Figure, missing
from flm.bench.measure import Clock, Turns, median_ms, take_turns
from flm.bench.predict.peers import Dlib, reference_network
from flm.bench.predict.setting import KnownFace, Setting, known_faces
from flm.errors import InputError
from flm.inference.predictor import Predictor
from flm.inference.torch_network import TorchNetwork

ONE, MANY = "landmarks of one face", "landmarks of 16 faces at once"
MANY_FACES = 16
ONE_BAR, MANY_BAR = Bar("at most", 4.0), Bar("at most", 2.5)
AIM_MS = 2.0

TORCH = f"{OURS}, through PyTorch"
DLIB = "dlib's 68-point predictor"
REFERENCE = "the reference project's network"

Side = Callable[[], float]


def measure_landmarks(setting: Setting, clock: Clock = time.perf_counter) -> list[Figure]:
    """Ours through onnxruntime and PyTorch, and the peers, on the same faces in turns.

    Raises:
        InputError: the shards cannot be used.
    """
    faces = known_faces(setting.data, setting.split, setting.length.faces)
    sides: dict[str, Side] = {
        OURS: one_by_one(setting.predictor, faces, clock),
        MANY: in_batches(setting.predictor, faces, clock),
    }
    absent = _add_peers(sides, setting, faces, clock)
    turns = take_turns(sides, setting.length.turns)
    how = f"median of {len(faces)} faces of {setting.split} in frames of 1,280 x 720, crop included"
    return [*_figures(turns, how), *absent]


def one_by_one(predictor: Predictor, faces: Sequence[KnownFace], clock: Clock) -> Side:
    """Ms of a face, each in a call of its own."""

    def predict(face: KnownFace) -> None:
        predictor.predict(face.picture, [face.box])

    return lambda: median_ms(predict, faces, clock)


def in_batches(predictor: Predictor, faces: Sequence[KnownFace], clock: Clock) -> Side:
    """Ms of a face, sixteen of different pictures in each call; of fewer faces, all."""
    size = min(MANY_FACES, len(faces))
    batches = [faces[start : start + size] for start in range(0, len(faces) - size + 1, size)]

    def predict(some: Sequence[KnownFace]) -> None:
        predictor.predict_many([face.picture for face in some], [[face.box] for face in some])

    return lambda: median_ms(predict, batches, clock) / size


def _add_peers(
    sides: dict[str, Side], setting: Setting, faces: Sequence[KnownFace], clock: Clock
) -> list[Figure]:
    """Give those that can be had a place; tell of the others."""
    absent = []
    if setting.checkpoint is None:
        absent.append(missing(ONE, TORCH, "only an .onnx file is given; give its checkpoint", unit="ms"))
    else:
        predictor = Predictor(TorchNetwork.load(setting.checkpoint))
        sides[TORCH] = one_by_one(predictor, faces, clock)
    sides[REFERENCE] = one_by_one(Predictor(reference_network()), faces, clock)
    if setting.dlib_model is None:
        absent.append(missing(ONE, DLIB, "no model file given; see --dlib-model", unit="ms"))
        return absent
    try:
        dlib = Dlib(setting.dlib_model)
    except InputError as mistake:
        return [*absent, missing(ONE, DLIB, str(mistake), unit="ms")]

    def predict(face: KnownFace) -> None:
        dlib.landmarks(face.picture, dlib.rectangle(face.box))

    sides[DLIB] = lambda: median_ms(predict, faces, clock)
    return absent


def _figures(turns: Turns, how: str) -> list[Figure]:
    own = {
        TORCH: "the same weights, PyTorch, float32",
        REFERENCE: "128 px, grey, regression, random weights, PyTorch, float32, as it was used",
        DLIB: "the landmarks' own box",
    }
    return [
        Figure(
            subject=ONE, side=OURS, unit="ms", value=turns.median(OURS), bar=ONE_BAR,
            how=f"onnxruntime, a call each; aim {AIM_MS:g} ms; {how}",
        ),
        Figure(
            subject=MANY, side=OURS, unit="ms a face", value=turns.median(MANY), bar=MANY_BAR,
            how="onnxruntime, faces of as many pictures",
        ),
        *(
            Figure(
                subject=ONE, side=side, unit="ms", value=turns.median(side), beside=turns.ratio(side, OURS),
                how=words,
            )
            for side, words in own.items()
            if side in turns.values
        ),
    ]  # fmt: skip
