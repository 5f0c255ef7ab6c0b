"""The XML of dlib's imglab tool: pictures, their boxes, the parts of each box."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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

    location: str
    """File and line of the box, such as `labels.xml:812`."""
    file: str
    """The picture, relative to the labels file."""
    box: FaceBox
    landmarks_image: Float[np.ndarray, "points 2"]
    """As they stand, in imglab's files whole pixels."""
    shares_picture: bool
    """The picture has more than this box."""

    @property
    def stem(self) -> str:
        """The picture's path without its extension."""
        return str(PurePosixPath(self.file).with_suffix(""))

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
    reader = _LabelsReader(path, scheme)
    try:
        with path.open("rb") as file:
            reader.parser.ParseFile(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: the file is missing") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except expat.ExpatError as error:
        raise InputError(
            f"{path}:{error.lineno}: not well-formed XML ({expat.errors.messages[error.code]}); "
            "fix the file or fetch it again"
        ) from error
    return reader.faces


class _LabelsReader:
    """Event by event, since only the running parser knows the line."""

    def __init__(self, path: Path, scheme: LandmarkScheme) -> None:
        self.faces: list[LabelledFace] = []
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self._path = path
        self._scheme = scheme
        self._index_of_name = {f"{index:02d}": index for index in range(scheme.num_points)}
        self._depth = 0
        self._file = ""
        self._boxes: list[tuple[str, FaceBox, dict[int, tuple[float, float]]]] = []

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self._depth == 0 and tag != "dataset":
            raise self._error(f"the outermost element is <{tag}>, expected <dataset>; is this imglab's XML?")
        self._depth += 1
        if tag == "image":
            self._file = self._attribute(attributes, "file", tag)
            self._boxes = []
        elif tag == "box":
            self._boxes.append((self._location, self._box(attributes), {}))
        elif tag == "part":
            self._add_part(attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "box":
            location, _, parts = self._boxes[-1]
            if len(parts) != self._scheme.num_points:
                raise InputError(
                    f"{location}: box of {self._file} has {len(parts)} points, expected "
                    f"{self._scheme.num_points} ({self._scheme.name}); fix or remove it"
                )
        elif tag == "image":
            self.faces.extend(
                LabelledFace(
                    location=location,
                    file=self._file,
                    box=box,
                    landmarks_image=np.array([parts[index] for index in sorted(parts)], dtype=np.float64),
                    shares_picture=len(self._boxes) > 1,
                )
                for location, box, parts in self._boxes
            )

    def _box(self, attributes: Mapping[str, str]) -> FaceBox:
        sides = {name: self._number(attributes, name, "box") for name in ("left", "top", "width", "height")}
        if sides["width"] <= 0 or sides["height"] <= 0:
            raise self._error(
                f"box of {self._file} is {sides['width']:g} by {sides['height']:g} px; fix or remove it"
            )
        return FaceBox(**sides)

    def _add_part(self, attributes: Mapping[str, str]) -> None:
        if not self._boxes:
            raise self._error("a <part> stands outside a <box>; fix or remove it")
        name = self._attribute(attributes, "name", "part")
        if name not in self._index_of_name:
            last = f"{self._scheme.num_points - 1:02d}"
            raise self._error(f"part {name!r} of {self._file}, expected 00 to {last}; fix or remove the box")
        parts = self._boxes[-1][2]
        index = self._index_of_name[name]
        if index in parts:
            raise self._error(f"box of {self._file} has part {name!r} twice; fix or remove it")
        parts[index] = (self._number(attributes, "x", "part"), self._number(attributes, "y", "part"))

    def _number(self, attributes: Mapping[str, str], name: str, tag: str) -> float:
        text = self._attribute(attributes, name, tag)
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise self._error(f"{name}={text!r} in a <{tag}> of {self._file}, expected a number; fix it")
        return number

    def _attribute(self, attributes: Mapping[str, str], name: str, tag: str) -> str:
        if name not in attributes:
            raise self._error(f"a <{tag}> of {self._file or 'the file'} has no {name}; fix or remove it")
        return attributes[name]

    @property
    def _location(self) -> str:
        return f"{self._path}:{self.parser.CurrentLineNumber}"

    def _error(self, message: str) -> InputError:
        return InputError(f"{self._location}: {message}")
