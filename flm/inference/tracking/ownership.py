"""Whose face is whose, where more than one track may have it."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, UInt8

from flm.inference.tracking.assignment import assign
from flm.inference.tracking.track import Sighting, Track, distance_in_sizes

Frame: TypeAlias = UInt8[np.ndarray, "height width 3"]
Seen: TypeAlias = tuple[Track, Sighting]
"""A track, and its face in the frame at hand."""

MOST_COST = 1.6
"""Of a face that comes back: its unlikeness, and some for its distance from where it is expected."""

STRAY_COST = 0.5
"""At most, of that distance."""

GOES_ON = 0.7
"""What it costs less to go on where a track led to."""

EXPECTED = 0.8
"""What it costs less where a face that was just lost is expected: half hidden, it looks unlike itself."""

SOON_S = 2.0
"""For so long after it was lost."""

STRAYS_PER_S = 2.0
"""How far a face that is not seen may have gone, in its sizes."""

CLEARLY = 0.3
"""So much more like it must a face be for a newer track to have it."""

MAY_BE = 2.5
"""Unlikeness of a half hidden face from one lost longer ago, below which it may still be that one."""

NEAR = 1.2
"""Sizes: faces that are nearer hide parts of each other, and nothing is learned of their looks."""


def one_track_a_face(pairs: Sequence[Seen], frame: Frame) -> list[Seen]:
    """Where two tracks lead to one face, it is the one's whose looks it has; of equals, the older one's."""
    kept: list[Seen] = []
    for track, sighting in sorted(pairs, key=lambda pair: pair[0].track_id):
        rival = next((one for one in kept if sighting.shows_face_of(one[1])), None)
        if rival is None:
            kept.append((track, sighting))
        elif _unlikeness(track, sighting, frame) < _unlikeness(*rival, frame) - CLEARLY:
            kept[kept.index(rival)] = (track, sighting)
    return kept


def owners_of(
    frame: Frame, time_s: float, led: Sequence[Seen], lost: Sequence[Track], new: Sequence[Sighting]
) -> dict[int, Track]:
    """The track of each face, by its place among those that tracks led to and the new ones after them.

    Args:
        frame: RGB.
        time_s: of the frame.
        led: tracks that go on, and where they led to; without new faces each keeps its own.
        lost: tracks that have no face in this frame.
        new: faces that no track led to; of those that are missing in what is returned, nobody knows.
    """
    if not (new and lost):
        return dict(enumerate(track for track, _ in led))
    tracks = [*(track for track, _ in led), *lost]
    sightings = [*(sighting for _, sighting in led), *new]
    costs = _costs(frame, time_s, tracks, sightings, num_led=len(led))
    return {column: tracks[row] for row, column in assign(costs, MOST_COST)}


def is_to_wait(
    frame: Frame,
    time_s: float,
    sighting: Sighting,
    all_of_them: Sequence[Sighting],
    lost: Sequence[Track],
) -> bool:
    """Whether a face without a track is half hidden, and may be one that was lost.

    It is behind another, or reaches out of the frame.
    """
    box = sighting.box
    is_hidden = (
        min(box.left, box.top) < 0
        or box.left + box.width > frame.shape[1]
        or box.top + box.height > frame.shape[0]
        or any(other is not sighting and distance_in_sizes(box, other.box) < NEAR for other in all_of_them)
    )
    return is_hidden and any(
        distance_in_sizes(track.expected_box(time_s), sighting.box) < _reach(time_s - track.seen_s)
        and (time_s - track.seen_s < SOON_S or _unlikeness(track, sighting, frame) < MAY_BE)
        for track in lost
    )


def _unlikeness(track: Track, sighting: Sighting, frame: Frame) -> float:
    return track.appearance.distance(sighting.appearance(frame))


def _costs(
    frame: Frame, time_s: float, tracks: Sequence[Track], sightings: Sequence[Sighting], num_led: int
) -> Float64[np.ndarray, "tracks sightings"]:
    """What it costs to take each face for that of each track; the first ones led to the first faces."""
    costs = np.zeros((len(tracks), len(sightings)))
    for row, track in enumerate(tracks):
        expected = track.expected_box(time_s)
        since_s = time_s - track.seen_s
        reach = _reach(since_s)
        for column, sighting in enumerate(sightings):
            away = distance_in_sizes(expected, sighting.box)
            costs[row, column] = _unlikeness(track, sighting, frame) + STRAY_COST * min(1.0, away / reach)
            if row >= num_led:
                costs[row, column] -= EXPECTED * max(0.0, 1 - away) * max(0.0, 1 - since_s / SOON_S)
        if row < num_led:
            # It may go on however it looks, unless another claims the face.
            costs[row, row] = min(costs[row, row] - GOES_ON, 0.99 * MOST_COST)
    return costs


def _reach(since_s: float) -> float:
    """How far from where it is expected a face may be, in its sizes."""
    return 0.5 + STRAYS_PER_S * since_s
