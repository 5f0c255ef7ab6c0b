"""Landmarks of a video that stand still where the face does, and follow where it moves.

A low-pass filter whose cutoff rises with speed: slow motion is mostly noise and is smoothed, fast motion is
real and is followed. It is applied twice. The head as a whole (place, size and turn in the picture: the
similarity that carries the face's own frame into the picture) has parameters of its own, since all points
tell of it together. What is left is expression, and is filtered point by point in the face's own frame, in
units of the inter-ocular distance, so that the same parameters fit every size of face.

How fast noise alone would seem to move is measured on the face itself, and counts as no motion. Without that,
a cutoff that rises early enough for a slow turn of the head would rise with every tremble too.

Lag: no frame is held back. What moves at a steady speed v is trailed by v / (2π · cutoff), and as the cutoff
is min_cutoff + beta · v, by less than 1 / (2π · beta) inter-ocular distances however fast it is: with the
defaults, 0.5 % of one for expression and 0.3 % for the head, which is below a frame at 30 frames a second.

Source: Casiez, Roussel and Vogel, "1€ Filter: A Simple Speed-based Low-pass Filter for Noisy Input in
Interactive Systems", 2012.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from flm.faces.shape import Points, as_complex, as_points, inter_ocular_px, turn_onto
from flm.inference.tracking.config import DEFAULT_FILTER, FilterConfig
from flm.landmarks import LandmarkScheme

SHORTEST_STEP_S = 1e-3
"""Frames that claim to be nearer in time than this would show speeds out of nothing."""

USUAL_OVER_S = 2.0
"""A face's usual uncertainty is a mean over about so long."""

NOISE_OVER_S = 1.0
"""And its noise over so long."""

_TINY = 1e-12

Deviations: TypeAlias = Float64[np.ndarray, "points 2 2"]


class LandmarkFilter:
    """Steadies the landmarks of one face, frame by frame.

    Turning, scaling or shifting the video turns, scales and shifts what comes out, and changes nothing else.

    Args:
        scheme: of the landmarks.
        config: how much is smoothed.
    """

    def __init__(self, scheme: LandmarkScheme, config: FilterConfig = DEFAULT_FILTER) -> None:
        self.scheme = scheme
        self.config = config
        self._state: _State | None = None

    def filter(
        self,
        landmarks_image: Float[np.ndarray, "points 2"],
        covariance_image: Float[np.ndarray, "points 2 2"] | None,
        time_s: float,
    ) -> Float64[np.ndarray, "points 2"]:
        """The landmarks of the next frame, steadied; those of the first, and after a step back in time, as
        they are.

        Args:
            landmarks_image: px of the picture, finite.
            covariance_image: how unsure each is, px²; None treats all alike. Only its ratios between points,
                directions and moments count, so that it need not be calibrated.
            time_s: of the frame.
        """
        points = as_complex(landmarks_image)
        state = self._state
        if state is None or time_s < state.time_s:
            self._state = _State(points, inter_ocular_px(landmarks_image, self.scheme), time_s)
            return landmarks_image.astype(np.float64)
        step_s = max(time_s - state.time_s, SHORTEST_STEP_S)
        deviations = None
        if covariance_image is not None and self.config.covariance_weight > 0:
            deviations = state.deviations(covariance_image, step_s)
        state.advance(points, deviations, step_s, self.config)
        state.time_s = time_s
        return as_points(state.turn * state.shape + state.origin)

    def reset(self) -> None:
        """Forget the face."""
        self._state = None


class _State:
    """What is known of a face.

    Points are complex numbers, x + iy, so that a similarity is turn · point + origin.
    """

    def __init__(self, points: Points, unit_px: float, time_s: float) -> None:
        self.time_s = time_s
        self.origin, self.turn = complex(points.mean()), complex(unit_px)
        self.shape: Points = (points - self.origin) / self.turn
        """Steadied, as origin and turn are, in the face's own frame."""
        self._reference = self.shape
        self._head_motion = _Motion(np.array([self.origin, self.turn / 2]), is_of_many=False)
        self._shape_motion = _Motion(self.shape, is_of_many=True)
        self._turn_px = unit_px
        """Px an inter-ocular distance in the last frame."""
        self._usual_variance: float | None = None

    def deviations(self, covariance_image: Float[np.ndarray, "points 2 2"], step_s: float) -> Deviations:
        """The standard deviation of each point over the face's usual one, as a matrix: √Σ."""
        trace = covariance_image[:, 0, 0] + covariance_image[:, 1, 1]
        variance = float(np.median(trace)) / 2 / self._turn_px**2
        if self._usual_variance is None:
            self._usual_variance = variance
        self._usual_variance += step_s / (step_s + USUAL_OVER_S) * (variance - self._usual_variance)
        usual_px = math.sqrt(max(self._usual_variance, _TINY)) * self._turn_px
        # Of a 2×2 matrix: √M = (M + √det M · I) / √(tr M + 2 √det M).
        crossed = covariance_image[:, 0, 1] * covariance_image[:, 1, 0]
        root = np.sqrt(np.maximum(covariance_image[:, 0, 0] * covariance_image[:, 1, 1] - crossed, 0))
        below = np.sqrt(np.maximum(trace + 2 * root, _TINY))
        return (covariance_image + root[:, None, None] * np.eye(2)) / (below * usual_px)[:, None, None]

    def advance(
        self, points: Points, deviations: Deviations | None, step_s: float, config: FilterConfig
    ) -> None:
        """Take in the next frame."""
        origin = complex(points.mean())
        turn = turn_onto(self._reference, points - origin)
        shape = (points - origin) / turn
        self._turn_px = abs(turn)
        # A point half an inter-ocular distance from the middle goes by half of what the turn changes.
        head_speeds = self._head_motion.speeds(np.array([origin, turn / 2]), 1.0, step_s, config)
        head_speed = float(head_speeds.sum()) / self._turn_px
        head_gain = _gain(config.head_min_cutoff_hz + config.head_beta * head_speed, step_s)
        self.turn += head_gain * (turn - self.turn)
        self.origin += head_gain * (origin - self.origin)

        weight = config.covariance_weight if deviations is not None else 0.0
        slowness = np.eye(2) if deviations is None else (1 - weight) * np.eye(2) + weight * deviations
        noisiness = np.sqrt((slowness**2).sum(axis=(-2, -1)) / 2)
        speeds = self._shape_motion.speeds(shape, noisiness, step_s, config)
        ratio = 2 * math.pi * step_s * (config.min_cutoff_hz + config.beta * speeds)
        self.shape = self.shape + _corrections((shape - self.shape) * turn, slowness, ratio) / turn


class _Motion:
    """How fast points move, beyond what noise alone would seem to."""

    def __init__(self, first: Points, *, is_of_many: bool) -> None:
        self._last = self._before = first
        self._velocity = np.zeros_like(first)
        self._is_of_many = is_of_many
        self._noise: Any = 0.0
        """Variance of a position over both axes: of each point, or of the middle one of many."""
        self._num_seen = 1

    def speeds(
        self,
        points: Points,
        noisiness: float | Float64[np.ndarray, "*points"],
        step_s: float,
        config: FilterConfig,
    ) -> Float64[np.ndarray, " points"]:
        """Speeds in the next frame.

        Args:
            points: where they are.
            noisiness: of each, over the usual one.
            step_s: since the last frame.
            config: how speeds are smoothed.
        """
        gain = _gain(config.derivative_cutoff_hz, step_s)
        self._velocity = self._velocity + gain * ((points - self._last) / step_s - self._velocity)
        if self._num_seen >= 2:
            # Second differences hold little of smooth motion, and 6 times the variance of the noise.
            bends = np.abs(points - 2 * self._last + self._before) ** 2 / 6
            # Of a normal distribution over the plane, the median of the square is ln 2 times the mean.
            variance = float(np.median(bends)) / math.log(2) if self._is_of_many else bends
            share = 1.0 if self._num_seen == 2 else step_s / (step_s + NOISE_OVER_S)
            self._noise = self._noise + share * (variance - self._noise)
        self._before, self._last = self._last, points
        self._num_seen += 1
        # What the smoothed velocity of white noise has: 2 gain² / (2 − gain) times its variance, a step².
        seeming = np.sqrt(self._noise * 2 * gain**2 / (2 - gain)) / step_s * noisiness
        beyond = np.abs(self._velocity) ** 2 - (config.noise_rejection * seeming) ** 2
        return np.sqrt(np.maximum(beyond, 0))


def _corrections(
    errors_px: Points, slowness: Float64[np.ndarray, "*points 2 2"], ratio: Float64[np.ndarray, " points"]
) -> Points:
    """By how much the steadied points go towards what was seen.

    A low-pass filter goes r / (1 + r) of the way, where r = 2π · cutoff · step. Here the time constant is
    multiplied by a matrix M, so that the gain is r (M + r I)⁻¹.
    """
    a, d = slowness[..., 0, 0] + ratio, slowness[..., 1, 1] + ratio
    b = (slowness[..., 0, 1] + slowness[..., 1, 0]) / 2
    x, y = np.real(errors_px), np.imag(errors_px)
    return (ratio / (a * d - b * b)) * ((d * x - b * y) + 1j * (a * y - b * x))


def _gain(cutoff_hz: float, step_s: float) -> float:
    """The share of the way that a low-pass filter goes in one step."""
    ratio = 2 * math.pi * cutoff_hz * step_s
    return ratio / (1 + ratio)
