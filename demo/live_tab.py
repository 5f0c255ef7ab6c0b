"""The camera: each frame goes out when the last one is answered, and its faces come back.

The browser keeps the frame that it sent and draws the answer over that very one, so that landmarks never
trail behind the picture, and no picture is sent back. What is known of a camera's faces is kept for as long
as frames come.
"""

import dataclasses
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from limits import FACES_AT_ONCE, RateLimit, client_of, sentence
from overlay import mark_doubtful, overlay
from stage import DASH, toggles
from visitor_picture import picture_of

from flm.errors import InputError
from flm.inference.predictor import Predictor
from flm.inference.results.records import Record, face_record
from flm.inference.tracking.config import FilterConfig, TrackConfig
from flm.inference.tracking.tracker import FaceTracker

HERE = Path(__file__).parent

MOST_CAMERAS = 8
"""At a time; one more is told to wait until another stops."""

FORGOTTEN_AFTER_S = 10.0
"""Without a frame."""

MOST_FRAME_CHARACTERS = 1_000_000
MOST_FRAME_SIDE_PX = 1280

FRAMES_PER_MINUTE = 30 * 60

TOKEN = re.compile(r"[0-9a-f-]{36}")

SLIDERS = (
    ("head_min_cutoff_hz", "Head, at rest", 0.2, 6.0, "Hz; lower is calmer"),
    ("head_beta", "Head, in motion", 0.0, 180.0, "higher follows fast moves closer"),
    ("min_cutoff_hz", "Expression, at rest", 0.2, 6.0, "Hz; lower is calmer"),
    ("beta", "Expression, in motion", 0.0, 90.0, "higher keeps blinks and speech"),
)
"""Of `FilterConfig`: name, label, least, most, what it does."""


FIGURES = (
    ("fps", "frames/s"), ("latency", "ms latency"), ("faces", "faces"), ("pose", "yaw, pitch, roll"),
)  # fmt: skip


@dataclasses.dataclass(slots=True, eq=False)
class Camera:
    """One visitor's camera."""

    tracker: FaceTracker
    settings: tuple[Any, ...]
    seen_s: float
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Cameras:
    """Those that send frames now.

    Args:
        predictor: finds and follows the faces.
        frames: how many a client may send.
        now_s: a clock.
    """

    def __init__(
        self,
        predictor: Predictor,
        frames: RateLimit,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predictor = predictor
        self._frames = frames
        self._now_s = now_s
        self._cameras: OrderedDict[str, Camera] = OrderedDict()
        self._lock = threading.Lock()
        self._room = threading.Semaphore(FACES_AT_ONCE)

    def answer(self, message: Any, client: str) -> dict[str, Any]:
        """The faces of one frame, as page and recording take them.

        Raises:
            InputError: the frame is none, or there are too many.
        """
        self._frames.take(client)
        fields = _checked(message)
        picture = picture_of(fields["image"])
        if max(picture.shape[:2]) > MOST_FRAME_SIDE_PX:
            raise InputError(f"a frame may be {MOST_FRAME_SIDE_PX} px wide and high; choose a smaller one")
        camera = self._camera(f"{client} {fields['token']}", fields)
        with camera.lock, self._room:
            start_s = time.perf_counter()
            tracked = camera.tracker.update(picture, self._now_s())
            ms = 1000 * (time.perf_counter() - start_s)
        records = []
        for face in tracked:
            record = face_record(face.prediction, "the frame")
            records.append({"track_id": face.track_id, **record})
        mark_doubtful(records, is_calibrated=camera.tracker.predictor.calibration is not None)
        height, width = picture.shape[:2]
        scheme = camera.tracker.predictor.scheme
        return {
            "svg": overlay(width, height, records, scheme, is_pressable=False),
            "ms": round(ms, 1),
            "faces": [_short(record, with_landmarks=fields["record"]) for record in records],
        }

    def _camera(self, key: str, fields: dict[str, Any]) -> Camera:
        now_s = self._now_s()
        with self._lock:
            for old, camera in list(self._cameras.items()):
                if now_s - camera.seen_s > FORGOTTEN_AFTER_S:
                    del self._cameras[old]
            camera = self._cameras.get(key)
            if camera is None and len(self._cameras) >= MOST_CAMERAS:
                raise InputError("other visitors use all that this server has for cameras; try again soon")
            settings = (fields["steady"], *fields["filter"].values())
            if camera is None or camera.settings != settings:
                config = TrackConfig(filter=FilterConfig(**fields["filter"]) if fields["steady"] else None)
                camera = Camera(FaceTracker(self._predictor, config), settings, now_s)
            camera.seen_s = now_s
            self._cameras[key] = camera
            return camera


def _checked(message: Any) -> dict[str, Any]:
    """What a browser sent, or whoever says to be one.

    Raises:
        InputError: it is no frame.
    """
    while isinstance(message, list) and len(message) == 1:
        message = message[0]
    if not isinstance(message, dict):
        raise InputError("that is no frame of a camera")
    image, token = message.get("image"), message.get("token")
    if (
        not isinstance(image, str)
        or not image.startswith("data:image/")
        or len(image) > MOST_FRAME_CHARACTERS
    ):
        raise InputError("that is no frame of a camera, or a very large one")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise InputError("that is no frame of a camera")
    given = message.get("filter")
    given = given if isinstance(given, dict) else {}
    return {
        "image": image,
        "token": token,
        "steady": message.get("steady") is not False,
        "record": message.get("record") is True,
        "filter": {name: _number(given.get(name), name, low, high) for name, _, low, high, _ in SLIDERS},
    }


def _number(value: Any, name: str, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return float(getattr(FilterConfig(), name))
    return min(high, max(low, float(value)))


def _short(record: Record, *, with_landmarks: bool) -> Record:
    kept = ["track_id", "score", "pose", "openness", *(["box", "landmarks"] if with_landmarks else [])]
    return {name: record[name] for name in kept}


def build(predictor: Predictor, *, is_limited: bool) -> Cameras:
    """Lay out the tab, and say what happens in it."""
    cameras = Cameras(predictor, RateLimit(FRAMES_PER_MINUTE if is_limited else 0))

    def frame(message: Any, request: gr.Request) -> dict[str, Any]:
        try:
            return cameras.answer(message, client_of(request))
        except InputError as mistake:
            return {"error": sentence(mistake)}

    gr.HTML(
        _html(),
        js_on_load=(HERE / "live.js").read_text(encoding="utf-8"),
        server_functions=[frame],
        apply_default_css=False,
        elem_id="live",
    )
    return cameras


def _html() -> str:
    default = FilterConfig()
    sliders = "".join(
        f"<label>{label}<output>{getattr(default, name):g}</output>"
        f'<input type="range" name="{name}" min="{low}" max="{high}" step="0.1" '
        f'value="{getattr(default, name)}" title="{what}"></label>'
        for name, label, low, high, what in SLIDERS
    )
    figures = "".join(
        f'<div><dd data-figure="{name}">{DASH}</dd><dt>{what}</dt></div>' for name, what in FIGURES
    )
    return f"""
<section class="live">
  <div class="columns">
    <div class="main">
      <div class="stage" style="aspect-ratio:4/3;--ratio:1.3333" role="group" aria-label="Camera">
        <canvas></canvas><div class="over"></div>
        <div class="hint"><button type="button" class="go" data-live="start">Start the camera</button>
        <p>Frames are looked at and forgotten; nothing is kept.</p></div>
      </div>
      {toggles()}
    </div>
    <aside class="controls">
      <dl class="figures" aria-label="Speed">
        {figures}
      </dl>
      <div class="files">
        <button type="button" class="file" data-live="stop" disabled>Stop</button>
        <button type="button" class="file" data-live="record" aria-pressed="false" disabled>Record</button>
      </div>
      <div class="files" hidden data-saves>
        <button type="button" class="file" data-live="jsonl">JSONL</button>
        <button type="button" class="file" data-live="csv">CSV</button>
      </div>
      <p class="soft" role="status" data-told></p>
      <fieldset><legend>Steadying</legend>
        <label class="check"><input type="checkbox" name="steady" checked>Steady the landmarks</label>
        {sliders}
        <label class="check"><input type="checkbox" name="mirror" checked>Mirror, as a mirror does</label>
      </fieldset>
    </aside>
  </div>
</section>"""
