"""Pictures read ahead by threads, and their faces shown to the network together."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from flm.errors import InputError, first_line
from flm.geometry import FaceBox
from flm.inference.detector import DetectedFace
from flm.inference.given_boxes import GivenBoxes
from flm.inference.inputs import PictureInput, readable
from flm.inference.picture_input import Picture
from flm.inference.predictor import Prediction, Predictor

PICTURES_AT_ONCE = 64
PIXELS_AT_ONCE = 2**26
"""Of the pictures whose faces share a forward pass: 200 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedPicture:
    """A picture with its faces, or with what is wrong with it."""

    source: PictureInput
    picture: Picture | None = None
    faces: tuple[Prediction, ...] = ()
    mistake: str = ""
    """Empty where there is a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A picture and the boxes of its faces, or what is wrong with it."""

    source: PictureInput
    picture: Picture | None = None
    faces: Sequence[FaceBox | DetectedFace] = ()
    mistake: str = ""

    @property
    def num_pixels(self) -> int:
        return 0 if self.picture is None else self.picture.shape[0] * self.picture.shape[1]


def predict_in_order(
    sources: Iterable[PictureInput], predictor: Predictor, boxes: GivenBoxes, *, workers: int
) -> Iterator[PredictedPicture]:
    """The faces of each picture. What cannot be read is handed on with its mistake.

    Few pictures are in memory at a time: one for each thread and one more, and those whose faces the network
    sees together.

    Args:
        sources: taken one after the other, a little ahead of what is handed on.
        predictor: finds faces where no boxes are given, and landmarks.
        boxes: of faces.
        workers: threads that read and look for faces.

    Raises:
        InputError: the detector cannot be had.
    """
    for group in _groups(_reads(sources, predictor, boxes, workers), predictor.faces_per_forward):
        whole = [(read.picture, read.faces) for read in group if read.picture is not None]
        found = iter(predictor.predict_many([picture for picture, _ in whole], [faces for _, faces in whole]))
        for read in group:
            faces = () if read.picture is None else tuple(next(found))
            yield PredictedPicture(
                source=read.source, picture=read.picture, faces=faces, mistake=read.mistake
            )


def _reads(
    sources: Iterable[PictureInput], predictor: Predictor, boxes: GivenBoxes, workers: int
) -> Iterator[_Read]:
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Read]] = deque()
        for source in sources:
            waiting.append(pool.submit(_read, source, predictor, boxes))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(source: PictureInput, predictor: Predictor, boxes: GivenBoxes) -> _Read:
    given = boxes.of(source)
    # Outside the block: a detector that cannot be had is no fault of the picture.
    detector = predictor.detector if given is None else None
    try:
        picture = source.read()
        faces = given if detector is None else detector.detect(picture)
    except InputError as mistake:
        return _Read(source=source, mistake=readable(str(mistake)))
    except Exception as error:  # one bad file does not end the others, whatever is wrong with it
        what = f"{source.image}: {type(error).__name__}: {first_line(error)}"
        return _Read(source=source, mistake=readable(what))
    return _Read(source=source, picture=picture, faces=faces or ())


def _groups(reads: Iterable[_Read], most_faces: int) -> Iterator[list[_Read]]:
    """Pictures whose faces are to share a forward pass, as many as are worth it and fit into memory."""
    group: list[_Read] = []
    for read in reads:
        group.append(read)
        if (
            sum(len(one.faces) for one in group) >= most_faces
            or sum(one.num_pixels for one in group) >= PIXELS_AT_ONCE
            or len(group) >= PICTURES_AT_ONCE
        ):
            yield group
            group = []
    if group:
        yield group
