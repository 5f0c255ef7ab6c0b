"""Which point is which: the landmark schemes.

Left and right are the person's own, so the right eye stands on the left of the picture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flm.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A stroke that joins landmarks when a face is drawn; closed around a single point it is a dot."""

    points: tuple[int, ...]
    closed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LandmarkScheme:
    """The meaning of each point of an annotation standard.

    Raises:
        ValueError: the mirror permutation is not an involution over all points, or the parts do not cover
            every point exactly once.
    """

    name: str
    num_points: int
    parts: Mapping[str, tuple[int, ...]]
    """Disjoint groups of points that together are the whole face, for errors per part."""
    mirror_permutation: tuple[int, ...]
    """`mirrored[i] = flipped[mirror_permutation[i]]`: which point takes the name `i` in a flipped picture."""
    outer_eye_corners: tuple[int, int]
    """Right and left outer corner; their distance is the inter-ocular distance."""
    right_eye: tuple[int, ...]
    left_eye: tuple[int, ...]
    """Points whose mean stands for the pupil, as the 300-W papers take it; where it is marked, the pupil."""
    lines: tuple[Line, ...]

    def __post_init__(self) -> None:
        points = list(range(self.num_points))
        swapped_twice = [self.mirror_permutation[i] for i in self.mirror_permutation]
        if swapped_twice != points:
            raise ValueError(f"{self.name}: the mirror permutation applied twice is not the identity")
        if sorted(i for part in self.parts.values() for i in part) != points:
            raise ValueError(f"{self.name}: the parts do not cover each of {self.num_points} points once")

    def __reduce__(self) -> tuple[Callable[[str], "LandmarkScheme"], tuple[str]]:
        """A scheme travels between processes as its name."""
        return scheme_named, (self.name,)


def _span(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _permutation(num_points: int, pairs: list[tuple[int, int]]) -> tuple[int, ...]:
    permutation = list(range(num_points))
    for a, b in pairs:
        permutation[a], permutation[b] = b, a
    return tuple(permutation)


def _ibug_68() -> LandmarkScheme:
    """The 68 points of Multi-PIE and iBUG 300-W.

    Source: Sagonas et al., "300 Faces in-the-Wild Challenge", 2013, figure 1.
    """
    pairs = [(i, 16 - i) for i in range(8)]
    pairs += [(i, 43 - i) for i in range(17, 22)]
    pairs += [(31, 35), (32, 34)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    parts = {
        "jaw": _span(0, 16),
        "brows": _span(17, 26),
        "nose": _span(27, 35),
        "eyes": _span(36, 47),
        "mouth": _span(48, 67),
    }
    lines = (
        Line(points=_span(0, 16)),
        Line(points=_span(17, 21)),
        Line(points=_span(22, 26)),
        Line(points=_span(27, 30)),
        Line(points=_span(31, 35)),
        Line(points=_span(36, 41), closed=True),
        Line(points=_span(42, 47), closed=True),
        Line(points=_span(48, 59), closed=True),
        Line(points=_span(60, 67), closed=True),
    )
    return LandmarkScheme(
        name="ibug-68",
        num_points=68,
        parts=MappingProxyType(parts),
        mirror_permutation=_permutation(68, pairs),
        outer_eye_corners=(36, 45),
        right_eye=_span(36, 41),
        left_eye=_span(42, 47),
        lines=lines,
    )


def _wflw_98() -> LandmarkScheme:
    """The 98 points of WFLW, with outlines of the brows and marked pupils.

    Source: Wu et al., "Look at Boundary: A Boundary-Aware Face Alignment Algorithm", 2018, and the figure of
    the points on the data set's page.
    """
    pairs = [(i, 32 - i) for i in range(16)]
    pairs += [(i, 79 - i) for i in range(33, 38)] + [(i, 88 - i) for i in range(38, 42)]
    pairs += [(55, 59), (56, 58)]
    pairs += [(i, 132 - i) for i in range(60, 65)] + [(i, 140 - i) for i in range(65, 68)] + [(96, 97)]
    pairs += [(76, 82), (77, 81), (78, 80), (83, 87), (84, 86)]
    pairs += [(88, 92), (89, 91), (93, 95)]
    parts = {
        "jaw": _span(0, 32),
        "brows": _span(33, 50),
        "nose": _span(51, 59),
        "eyes": (*_span(60, 75), 96, 97),
        "mouth": _span(76, 95),
    }
    lines = (
        Line(points=_span(0, 32)),
        Line(points=_span(33, 41), closed=True),
        Line(points=_span(42, 50), closed=True),
        Line(points=_span(51, 54)),
        Line(points=_span(55, 59)),
        Line(points=_span(60, 67), closed=True),
        Line(points=_span(68, 75), closed=True),
        Line(points=_span(76, 87), closed=True),
        Line(points=_span(88, 95), closed=True),
        Line(points=(96,), closed=True),
        Line(points=(97,), closed=True),
    )
    return LandmarkScheme(
        name="wflw-98",
        num_points=98,
        parts=MappingProxyType(parts),
        mirror_permutation=_permutation(98, pairs),
        outer_eye_corners=(60, 72),
        right_eye=(96,),
        left_eye=(97,),
        lines=lines,
    )


def _dlib_5() -> LandmarkScheme:
    """The five points of dlib's small predictor: corners of the left eye, of the right one, base of the nose.

    Source: King, `shape_predictor_5_face_landmarks.dat` of dlib's models, 2017.
    """
    return LandmarkScheme(
        name="dlib-5",
        num_points=5,
        parts=MappingProxyType({"nose": (4,), "eyes": _span(0, 3)}),
        mirror_permutation=_permutation(5, [(0, 2), (1, 3)]),
        outer_eye_corners=(2, 0),
        right_eye=(2, 3),
        left_eye=(0, 1),
        lines=(Line(points=(0, 1)), Line(points=(2, 3)), Line(points=(4,), closed=True)),
    )


IBUG_68 = _ibug_68()
WFLW_98 = _wflw_98()
DLIB_5 = _dlib_5()
SCHEMES: Mapping[str, LandmarkScheme] = MappingProxyType(
    {scheme.name: scheme for scheme in (IBUG_68, WFLW_98, DLIB_5)}
)


def scheme_named(name: str) -> LandmarkScheme:
    """The scheme of that name.

    Raises:
        InputError: there is none.
    """
    if name not in SCHEMES:
        raise InputError(f"landmark scheme {name!r} is unknown; known: {', '.join(SCHEMES)}")
    return SCHEMES[name]
