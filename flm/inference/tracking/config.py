"""How faces are followed and steadied: apart from what does it, so that a command line knows its flags."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """How landmarks are steadied. Raise a cutoff for less lag, lower it for less jitter."""

    min_cutoff_hz: float = 1.0
    """Steadiness of a still expression. Lower holds the points of a still face calmer, and answers slow
    changes later; raise it where eyes or lips seem to stick."""
    beta: float = 30.0
    """How readily expressions are followed, in Hz for each inter-ocular distance a second. Raise it where
    blinks and speech come late or are cut short; lower it where points tremble while a face moves."""
    head_min_cutoff_hz: float = 1.5
    """The same as the least cutoff, of the head's place, size and turn in the picture."""
    head_beta: float = 60.0
    """The same as beta, of the head. Raise it where the landmarks trail behind a moving head."""
    derivative_cutoff_hz: float = 2.0
    """Of the speeds themselves. Lower tells noise from motion better; higher notices sooner that a face
    starts to move."""
    noise_rejection: float = 2.0
    """Speeds below so many times that of the noise, as measured on the face, count as rest. 0 takes all noise
    for motion; higher is calmer, and later to follow the slightest motion."""
    covariance_weight: float = 0.5
    """How much more the uncertain points are smoothed, from 0 (all alike) to 1 (in proportion to their
    standard deviation). A point of the jaw is so smoothed along the jaw more than across it."""

    def __post_init__(self) -> None:
        for name in ("min_cutoff_hz", "head_min_cutoff_hz", "derivative_cutoff_hz"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"--track.filter.{name.replace('_', '-')} is {value}, must be positive")
        for name in ("beta", "head_beta", "noise_rejection"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"--track.filter.{name.replace('_', '-')} is {value}, must be at least 0")
        if not 0 <= self.covariance_weight <= 1:
            weight = self.covariance_weight
            raise ValueError(f"--track.filter.covariance-weight is {weight}, must be from 0 to 1")


DEFAULT_FILTER = FilterConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackConfig:
    """How faces are followed."""

    detect_every_frames: int = 10
    """A detector looks for new faces in every so many frames; at once when a face is lost, and twice as often
    for two seconds after."""
    remember_s: float = 5.0
    """How long a lost face keeps its id; one that comes back later is a new one."""
    lost_score: float = 0.3
    """Below this score a face is lost; without a calibration, below this share of its usual score."""
    max_faces: int = 20
    """More are not followed; the largest come first."""
    filter: FilterConfig | None = DEFAULT_FILTER
    """How landmarks are steadied; None leaves them as they are found in each frame."""

    def __post_init__(self) -> None:
        for name in ("detect_every_frames", "max_faces"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--track.{flag} is {getattr(self, name)}, must be at least 1")
        if not self.remember_s >= 0:
            raise ValueError(f"--track.remember-s is {self.remember_s}, must be at least 0")
        if not 0 <= self.lost_score <= 1:
            raise ValueError(f"--track.lost-score is {self.lost_score}, must be from 0 to 1")


DEFAULT_TRACKING = TrackConfig()
