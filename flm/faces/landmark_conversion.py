"""From the points of one scheme to those of another that has fewer.

Each point of the smaller scheme is one of the larger, so landmarks and covariances are converted alike: by
taking some.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxtyping import Float

from flm.errors import InputError
from flm.landmarks import DLIB_5, IBUG_68, WFLW_98, LandmarkScheme

ArrayOrTensor = Any

_IBUG_68_OF_WFLW_98 = (
    *range(0, 33, 2),  # every second point of the jaw
    *range(33, 38),  # the upper edges of the brows
    *range(42, 47),
    *range(51, 60),
    *(60, 61, 63, 64, 65, 67),  # without the middles of the lids
    *(68, 69, 71, 72, 73, 75),
    *range(76, 96),
)
"""WFLW's numbers of iBUG's points. Brows of iBUG run along the middle of the hair, WFLW's outline it.

Source: the points of both figures that lie on the same spot, which is also what those take who test networks
of WFLW on 300-W.
"""

_DLIB_5_OF_IBUG_68 = (45, 42, 36, 39, 33)
"""Source: `get_face_chip_details` of dlib, which has the places of both in a mean face."""

_POINTS: Mapping[tuple[str, str], tuple[int, ...]] = MappingProxyType(
    {
        (WFLW_98.name, IBUG_68.name): _IBUG_68_OF_WFLW_98,
        (IBUG_68.name, DLIB_5.name): _DLIB_5_OF_IBUG_68,
        (WFLW_98.name, DLIB_5.name): tuple(_IBUG_68_OF_WFLW_98[point] for point in _DLIB_5_OF_IBUG_68),
    }
)


def can_become(source: LandmarkScheme, target: LandmarkScheme) -> bool:
    """Whether the source scheme is known to have all points of the target."""
    return source is target or (source.name, target.name) in _POINTS


def points_taken(source: LandmarkScheme, target: LandmarkScheme) -> tuple[int, ...]:
    """For each point of the target scheme, the number that it has in the source scheme.

    Raises:
        InputError: the source lacks points that the target has.
    """
    if source is target:
        return tuple(range(source.num_points))
    if not can_become(source, target):
        known = ", ".join(f"{larger} to {smaller}" for larger, smaller in _POINTS)
        raise InputError(f"landmarks of {source.name} cannot become {target.name}; known: {known}")
    return _POINTS[source.name, target.name]


def convert_landmarks(
    landmarks: Float[ArrayOrTensor, "*faces source_points 2"], source: LandmarkScheme, target: LandmarkScheme
) -> Float[ArrayOrTensor, "*faces target_points 2"]:
    """Landmarks of one scheme as those of another, in the same frame.

    Args:
        landmarks: a numpy array or a torch tensor.
        source: their scheme.
        target: the scheme that is wanted.

    Raises:
        InputError: the source lacks points that the target has.
    """
    return landmarks[..., list(points_taken(source, target)), :]


def shared_points(scheme: LandmarkScheme, reference: LandmarkScheme) -> tuple[list[int], list[int]]:
    """The points that two schemes have in common: their numbers in the one, and in the other.

    Where neither is known to be part of the other, those are the outer eye corners, which every scheme has.
    """
    if can_become(reference, scheme):
        return list(range(scheme.num_points)), list(points_taken(reference, scheme))
    if can_become(scheme, reference):
        return list(points_taken(scheme, reference)), list(range(reference.num_points))
    return list(scheme.outer_eye_corners), list(reference.outer_eye_corners)
