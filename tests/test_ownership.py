"""Whose face is whose, when more than one track may have it."""

import dataclasses

import numpy as np
import pytest
from simulated_faces import SimulatedPredictor, rendered_faces

from flm.bench.face_paths import still
from flm.bench.moving_faces import MovingFaces
from flm.inference.tracking.ownership import is_to_wait, one_track_a_face, owners_of
from flm.inference.tracking.track import Sighting, Track

PLACES = (100.0, 320.0, 540.0)


@pytest.fixture(scope="module")
def frame():
    paths = [still(x, 180.0, 80.0) for x in PLACES]
    return MovingFaces(rendered_faces(3), paths, width=640, height=360, num_frames=1).frame(0)


@pytest.fixture
def sightings(frame) -> list[Sighting]:
    predictor = SimulatedPredictor(noise=0.005)
    predictor.show(frame)
    return [Sighting(found) for found in predictor.predict(frame.pixels, [frame.box(n) for n in range(3)])]


@pytest.fixture
def tracks(frame, sightings) -> list[Track]:
    """Of each face, seen a moment ago where it is."""
    return [Track.of(number, one, frame.pixels, 0.0, None) for number, one in enumerate(sightings)]


def test_without_new_faces_each_track_keeps_its_own(frame, tracks, sightings):
    led = [(tracks[0], sightings[0]), (tracks[1], sightings[2])]
    assert owners_of(frame.pixels, 0.1, led, [tracks[2]], []) == {0: tracks[0], 1: tracks[1]}


def test_a_lost_face_is_known_again(frame, tracks, sightings):
    owners = owners_of(frame.pixels, 1.5, [(tracks[0], sightings[0])], tracks[1:], [sightings[2]])
    assert owners == {0: tracks[0], 1: tracks[2]}


def test_two_that_were_taken_for_each_other_get_their_own_back(frame, tracks, sightings):
    # The first track goes on in the second face; the second was lost, and the first one's face is new.
    owners = owners_of(frame.pixels, 0.5, [(tracks[0], sightings[1])], [tracks[1]], [sightings[0]])
    assert owners == {0: tracks[1], 1: tracks[0]}


def test_a_stranger_is_nobody_of_the_lost(frame, tracks, sightings):
    owners = owners_of(frame.pixels, 1.0, [(tracks[0], sightings[0])], [tracks[1]], [sightings[2]])
    assert owners == {0: tracks[0]}


def test_of_two_tracks_on_one_face_its_own_stays(frame, tracks, sightings):
    for pairs in ([(tracks[0], sightings[1]), (tracks[1], sightings[1])], [(tracks[1], sightings[1])]):
        assert one_track_a_face(pairs, frame.pixels) == [(tracks[1], sightings[1])]
    # Of two that look alike, the older one.
    twin = Track.of(7, sightings[1], frame.pixels, 0.0, None)
    pairs = [(twin, sightings[1]), (tracks[1], sightings[1])]
    assert one_track_a_face(pairs, frame.pixels) == [(tracks[1], sightings[1])]
    apart = [(tracks[0], sightings[0]), (tracks[1], sightings[1])]
    assert one_track_a_face(apart, frame.pixels) == apart


def test_who_is_half_hidden_is_waited_for(frame, sightings, tracks):
    first, second, _ = sightings
    lost = [tracks[1]]
    assert not is_to_wait(frame.pixels, 0.5, second, sightings, lost)
    moved = second.prediction.landmarks_image + np.array([60.0, 0.0])
    beside = Sighting(dataclasses.replace(first.prediction, landmarks_image=moved))
    assert is_to_wait(frame.pixels, 0.5, second, [beside, second], lost)
    # One that was lost longer ago is waited for too, where the face may be it by its looks.
    assert is_to_wait(frame.pixels, 3.0, second, [beside, second], lost)
    stranger = dataclasses.replace(tracks[1], appearance=tracks[0].appearance)
    assert is_to_wait(frame.pixels, 0.5, second, [beside, second], [stranger])
    assert not is_to_wait(frame.pixels, 3.0, second, [beside, second], [stranger])
    assert not is_to_wait(frame.pixels, 0.5, second, [beside, second], [])
    # At the rim of a narrower frame.
    assert is_to_wait(frame.pixels[:, :330], 0.5, second, [second], lost)
