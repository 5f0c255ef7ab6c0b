"""Which point is which: the landmark schemes.

Left and right are the person's own, so the right eye stands on the left of the picture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flm.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A stroke that joins landmarks when a face is drawn."""

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
    """Points whose mean stands for the pupil, as the 300-W papers take it."""
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


IBUG_68 = _ibug_68()
SCHEMES: Mapping[str, LandmarkScheme] = MappingProxyType({scheme.name: scheme for scheme in (IBUG_68,)})


def scheme_named(name: str) -> LandmarkScheme:
    """The scheme of that name.

    Raises:
        InputError: there is none.
    """
    if name not in SCHEMES:
        raise InputError(f"landmark scheme {name!r} is unknown; known: {', '.join(SCHEMES)}")
    return SCHEMES[name]
