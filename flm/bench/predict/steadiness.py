"""How still the landmarks of a still face are in a video, and how far those of a moving one trail behind.

Jitter is the root mean square of second differences over frames: of steady motion it is 0. Lag is by how many
frames the truth must be put off to come nearest to what was found, whatever each point's own constant error.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from flm.bench.face_paths import faces_of_shards, still, swaying
from flm.bench.figures import OURS, Bar, Figure, missing
from flm.bench.moving_faces import FacePath, FacePicture, MovingFaces
from flm.bench.predict.pictures import nearest
from flm.bench.predict.setting import HEIGHT, WIDTH, Setting
from flm.draw import write_png
from flm.errors import InputError
from flm.inference.predictor import Predictor
from flm.inference.tracking.tracker import FaceTracker
from flm.landmarks import LandmarkScheme

JITTER, LAG = "jitter of a still face", "lag behind a moving face"
JITTER_BAR, LAG_BAR = Bar("at least", 3.0, is_of_ratio=True), Bar("at most", 1.0)
FRAME_BY_FRAME, ADDED = f"{OURS}, frame by frame", f"{OURS}, added by tracking"
PICTURE_NAME = "steadiness.png"

FACE_PX = 260.0
NOISE = 3.0
"""Standard deviation of the camera's noise, grey levels."""
SETTLES_S = 1.0
"""Not counted: a filter begins with what it sees first."""
MOST_LAG_FRAMES = 6.0
LAG_STEP_FRAMES = 0.05
SHOWN_S = 2.5
"""Of the moving face, in the picture."""

Tracks = Float64[np.ndarray, "frames points 2"]
"""Landmarks over time, px; not a number where the face was not found."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Watched:
    """One face of a video."""

    truth: Tracks
    tracked: Tracks
    """Followed and steadied."""
    single: Tracks
    """Found in each frame by itself."""

    def since(self, frame: int) -> "Watched":
        """Without the frames before."""
        return Watched(truth=self.truth[frame:], tracked=self.tracked[frame:], single=self.single[frame:])


def measure_steadiness(setting: Setting) -> list[Figure]:
    """Jitter and lag, with tracking and without, and their picture.

    Raises:
        InputError: the shards have no such face, or the detector cannot be had or does not find it.
    """
    face = faces_of_shards(setting.data, 1, split=setting.split, detector=setting.detector)[0]
    start = round(SETTLES_S * setting.length.frames_per_s)
    paths = still(WIDTH / 2, HEIGHT / 2, FACE_PX), swaying(WIDTH / 2, HEIGHT / 2, FACE_PX)
    unmoved, moved = (watch(setting, face, path).since(start) for path in paths)
    figures = [*_jitter_figures(unmoved), *_lag_figures(moved)]
    write_png(
        setting.out / PICTURE_NAME,
        steadiness_picture(unmoved, moved, setting.predictor.scheme, setting.length.frames_per_s),
    )
    return figures


def watch(setting: Setting, face: FacePicture, path: FacePath) -> Watched:
    """Go through a video of one face once.

    Raises:
        InputError: the face is not found in half of the frames or more.
    """
    moving = MovingFaces(
        [face], [path], width=WIDTH, height=HEIGHT, noise=NOISE,
        frames_per_s=setting.length.frames_per_s, num_frames=setting.length.video_frames,
    )  # fmt: skip
    tracker = FaceTracker(setting.predictor)
    truth, tracked, single = [], [], []
    for frame in moving:
        truth.append(frame.landmarks[0])
        faces = tracker.update(frame.pixels, frame.time_s)
        tracked.append(_nearest([one.prediction.landmarks_image for one in faces], truth[-1]))
        single.append(_nearest(_alone(setting.predictor, frame.pixels), truth[-1]))
    watched = Watched(truth=np.array(truth), tracked=np.array(tracked), single=np.array(single))
    for name, found in (("by tracking", watched.tracked), ("by the detector", watched.single)):
        missed = int(np.isnan(found[:, 0, 0]).sum())
        if missed > len(moving) / 2:
            raise InputError(f"the generated face is not found {name} in {missed} of {len(moving)} frames")
    return watched


def _alone(
    predictor: Predictor, picture: UInt8[np.ndarray, "height width 3"]
) -> list[Float64[np.ndarray, "points 2"]]:
    return [face.landmarks_image for face in predictor.predict(picture)]


def _nearest(
    found: list[Float64[np.ndarray, "points 2"]], truth: Float64[np.ndarray, "points 2"]
) -> Float64[np.ndarray, "points 2"]:
    landmarks = nearest(found, truth)
    return np.full_like(truth, np.nan) if landmarks is None else landmarks


def jitter_px(found: Tracks) -> float:
    """Root mean square of the second differences over time, of all points."""
    squares = (np.diff(found, n=2, axis=0) ** 2).sum(-1)
    return float(np.sqrt(np.nanmean(squares)))


def misfits_px(
    found: Tracks, truth: Tracks, delays_frames: Float64[np.ndarray, " delays"]
) -> Float64[np.ndarray, " delays"]:
    """How far landmarks are from a truth that is put off, root mean square.

    The mean difference of each point is taken away, and the truth is followed linearly between frames. The
    frames that are compared are the same for all delays.
    """
    count = len(truth)
    most = int(np.ceil(np.abs(delays_frames).max()))
    frames = np.arange(most, count - most)
    frames = frames[np.isfinite(found[frames, 0, 0])]
    if not len(frames):
        return np.full(len(delays_frames), np.nan)
    misfits = []
    for delay in delays_frames.tolist():
        times = frames - delay
        before = np.minimum(np.floor(times).astype(int), count - 2)
        share = (times - before)[:, None, None]
        apart = found[frames] - ((1 - share) * truth[before] + share * truth[before + 1])
        misfits.append(np.sqrt(((apart - apart.mean(0)) ** 2).sum(-1).mean()))
    return np.array(misfits)


def delays() -> Float64[np.ndarray, " delays"]:
    """Those that are tried, in frames."""
    steps = round(MOST_LAG_FRAMES / LAG_STEP_FRAMES)
    return np.arange(-steps, steps + 1) * LAG_STEP_FRAMES


def lag_frames(found: Tracks, truth: Tracks) -> float:
    """By how many frames landmarks trail behind; negative if they run ahead.

    Not a number where the face was found in no frame that can be compared.
    """
    tried = delays()
    misfits = misfits_px(found, truth, tried)
    return math.nan if np.isnan(misfits).all() else float(tried[np.argmin(misfits)])


def _jitter_figures(unmoved: Watched) -> list[Figure]:
    tracked, single = jitter_px(unmoved.tracked), jitter_px(unmoved.single)
    how = f"a face of {FACE_PX:g} px, noise of {NOISE:g} grey levels, {len(unmoved.truth)} frames"
    return [
        Figure(
            subject=JITTER, side=OURS, unit="px", value=tracked,
            how=f"root mean square of second differences; {how}",
        ),
        Figure(
            subject=JITTER, side=FRAME_BY_FRAME, unit="px", value=single,
            beside=single / tracked if tracked else None, bar=JITTER_BAR,
            how="detection in every frame, nothing steadied",
        ),
    ]  # fmt: skip


def _lag_figures(moved: Watched) -> list[Figure]:
    tracked, single = (lag_frames(found, moved.truth) for found in (moved.tracked, moved.single))
    if not abs(single) < MOST_LAG_FRAMES:
        why = "frame by frame, the landmarks do not follow the face; is the network trained?"
        return [missing(LAG, ADDED, why, unit="frames", bar=LAG_BAR)]
    if math.isnan(tracked):
        why = "tracking finds the face in no frame that can be compared"
        return [missing(LAG, ADDED, why, unit="frames", bar=LAG_BAR)]
    how = f"a face of {FACE_PX:g} px that sways, nods, turns and comes nearer, {len(moved.truth)} frames"
    return [
        Figure(
            subject=LAG, side=ADDED, unit="frames", value=tracked - single, bar=LAG_BAR,
            how=f"{tracked:+.2f} frames, and {single:+.2f} frame by frame; {how}",
        )
    ]  # fmt: skip


def steadiness_picture(
    unmoved: Watched, moved: Watched, scheme: LandmarkScheme, frames_per_s: float
) -> UInt8[np.ndarray, "height width 3"]:
    """A point of the still face over time, one of the moving face, and the misfit over the delay."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(14, 4.4), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(drawing)
    left, middle, right = drawing.subplots(1, 3)
    point = scheme.outer_eye_corners[0]
    shown = min(len(moved.truth), max(2, round(SHOWN_S * frames_per_s)))
    for panel, watched, count in ((left, unmoved, len(unmoved.truth)), (middle, moved, shown)):
        times_s = np.arange(count) / frames_per_s
        for found, style in zip((watched.truth, watched.single, watched.tracked), _STYLES, strict=True):
            values = found[:count, point, 0]
            middle_px = np.nanmean(values) if watched is unmoved else 0.0
            panel.plot(times_s, values - middle_px, **style)
        panel.set(xlabel="time, s")
    left.set(ylabel="x of the outer eye corner about its mean, px")
    left.set_title(
        f"still face: jitter {jitter_px(unmoved.single):.2f} px frame by frame, "
        f"{jitter_px(unmoved.tracked):.2f} px tracked", loc="left", fontsize=10,
    )  # fmt: skip
    middle.set(ylabel="x of the outer eye corner, px")
    middle.set_title("moving face", loc="left", fontsize=10)
    tried = delays()
    for found, style in zip((moved.single, moved.tracked), _STYLES[1:], strict=True):
        lag = lag_frames(found, moved.truth)
        label = f"{style['label']}: {lag:+.2f} frames"
        right.plot(tried, misfits_px(found, moved.truth, tried), **{**style, "label": label})
        right.axvline(lag, color=style["color"], linewidth=0.8, linestyle=":")
    right.set(xlabel="truth put off by, frames", ylabel="distance from it, px, root mean square")
    right.set_title("moving face: lag is where the distance is least", loc="left", fontsize=10)
    for panel in (left, middle, right):
        panel.grid(color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


_STYLES = (
    {"label": "truth", "color": "0.45", "linewidth": 1.0, "linestyle": "--"},
    {"label": "frame by frame", "color": "#c2477f", "linewidth": 0.9},
    {"label": "tracked and steadied", "color": "#3b6fb6", "linewidth": 1.8},
)
