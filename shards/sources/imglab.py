"""The XML of dlib's imglab tool: pictures, their boxes, the parts of each box."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from jaxtyping import Float

from flm.errors import InputError
from flm.geometry import FaceBox
from flm.landmarks import LandmarkScheme

MIRROR_SUFFIX = "_mirror"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFace:
    """A box of a labels file with its parts."""

    labels: Path
    element: int
    """Number of the box among all elements of the file; its line is looked up when an error names it."""
    file: str
    """The picture, relative to the labels file."""
    box: FaceBox
    landmarks_image: Float[np.ndarray, "points 2"]
    """As they stand, in imglab's files whole pixels."""
    shares_picture: bool
    """The picture has more than this box."""

    @property
    def location(self) -> str:
        """File and line of the box, such as `labels.xml:812`."""
        return _location(self.labels, self.element)

    @property
    def stem(self) -> str:
        """The picture's path without its extension."""
        return str(PurePosixPath(self.file).with_suffix(""))

    @property
    def original_stem(self) -> str:
        """The stem; for a flipped copy that of the picture it was made from."""
        return self.stem.removesuffix(MIRROR_SUFFIX)

    @property
    def is_mirror(self) -> bool:
        """Whether it is a flipped copy of another picture, as dlib names them."""
        return self.stem.endswith(MIRROR_SUFFIX)


def read_labels(path: Path, scheme: LandmarkScheme) -> list[LabelledFace]:
    """The faces of a labels file, in its order.

    Args:
        path: the XML.
        scheme: each box has all its points, named `00`, `01`, ….

    Raises:
        InputError: it is not such an XML, or a box or part is malformed; names the line.
    """
    faces: list[LabelledFace] = []
    num_elements, image_element = 0, 0
    try:
        with path.open("rb") as file:
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                if event == "start":
                    if num_elements == 0 and element.tag != "dataset":
                        raise _error(path, 0, f"<{element.tag}> is the outermost element, expected <dataset>")
                    image_element = num_elements if element.tag == "image" else image_element
                    num_elements += 1
                elif element.tag == "image":
                    faces.extend(_faces_of(path, element, image_element, scheme))
                    element.clear()
    except FileNotFoundError as error:
        raise InputError(f"{path}: the file is missing; fetch the archive again") from error
    except (OSError, LookupError) as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch the archive again") from error
    except ElementTree.ParseError as error:
        reason = expat.ErrorString(error.code)
        raise InputError(
            f"{path}:{error.position[0]}: not well-formed XML ({reason}); fix the file or fetch it again"
        ) from error
    return faces


def _faces_of(
    path: Path, image: ElementTree.Element, image_element: int, scheme: LandmarkScheme
) -> Iterator[LabelledFace]:
    file = image.get("file")
    if not file or not PurePosixPath(file).name:
        raise _error(path, image_element, "an <image> has no file; fix or remove it")
    elements = list(image.iter())
    shares_picture = sum(element.tag == "box" for element in elements) > 1
    for offset, element in enumerate(elements):
        # imglab marks boxes that training is to pass over; they need no parts.
        if element.tag == "box" and element.get("ignore") != "1":
            number = image_element + offset
            yield LabelledFace(
                labels=path,
                element=number,
                file=file,
                box=_box_of(path, element, number, file),
                landmarks_image=_landmarks_of(path, element, number, file, scheme),
                shares_picture=shares_picture,
            )


def _box_of(path: Path, box: ElementTree.Element, number: int, file: str) -> FaceBox:
    texts = {name: box.get(name) for name in ("left", "top", "width", "height")}
    try:
        return FaceBox(**{name: float(text or "nothing") for name, text in texts.items()})
    except ValueError as error:
        told = ", ".join(f"{name} {text}" for name, text in texts.items())
        raise _error(
            path, number, f"box of {file} has {told}, expected numbers, the sides above 0; fix or remove it"
        ) from error


def _landmarks_of(
    path: Path, box: ElementTree.Element, number: int, file: str, scheme: LandmarkScheme
) -> Float[np.ndarray, "points 2"]:
    index_of_name = {f"{index:02d}": index for index in range(scheme.num_points)}
    landmarks = np.full((scheme.num_points, 2), np.nan)
    seen = set[str]()
    for offset, part in enumerate(box.iter()):
        if part.tag != "part":
            continue
        name, x, y = part.get("name", ""), part.get("x"), part.get("y")
        if name in seen:
            raise _error(path, number + offset, f"box of {file} has part {name!r} twice; fix or remove it")
        if name not in index_of_name:
            known = f"00 to {scheme.num_points - 1:02d} ({scheme.name})"
            raise _error(
                path, number + offset, f"part {name!r} of {file}, expected {known}; fix or remove it"
            )
        try:
            landmarks[index_of_name[name]] = float(x or "nothing"), float(y or "nothing")
        except ValueError as error:
            raise _error(
                path, number + offset, f"part {name!r} of {file} is at ({x}, {y}), expected numbers; fix it"
            ) from error
        seen.add(name)
    if len(seen) != scheme.num_points:
        raise _error(
            path,
            number,
            f"box of {file} has {len(seen)} points, expected {scheme.num_points} ({scheme.name}); "
            "fix or remove it",
        )
    return landmarks


def _error(path: Path, element: int, message: str) -> InputError:
    return InputError(f"{_location(path, element)}: {message}")


def _location(path: Path, element: int) -> str:
    """Where an element begins. A second reading, since the fast parser does not keep lines."""
    lines: list[int] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda *_: lines.append(parser.CurrentLineNumber)
    # A file that is broken further on has the element nevertheless.
    with contextlib.suppress(expat.ExpatError):
        parser.Parse(path.read_bytes(), True)
    return f"{path}:{lines[element]}"
