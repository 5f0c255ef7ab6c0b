"""How long `flm predict` takes on one picture, from nothing to its result."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flm.bench.figures import OURS, Bar, Figure
from flm.bench.measure import Clock, process_s, take_turns
from flm.bench.predict.setting import Setting, known_faces
from flm.draw import write_png

SUBJECT = "cold start"
START_BAR = Bar("at most", 2.0)
COMMAND = "flm predict PICTURE"
IMPORTS = {
    "python alone": "pass",
    "import flm": "import flm",
    "import the predictor": "import flm.inference.predictor",
}


def measure_start(setting: Setting, clock: Clock = time.perf_counter) -> list[Figure]:
    """Processes that start, in turns.

    Raises:
        InputError: the shards cannot be used, or the command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "face.png"
        write_png(picture, known_faces(setting.data, setting.split, 1)[0].picture)
        arguments = ["predict", str(picture), "--out", f"{folder}/out", "--overwrite"]
        arguments += ["--checkpoint", str(setting.onnx), *setting.detector_flags]
        command = [sys.executable, "-m", "flm", *arguments]
        sides: dict[str, Callable[[], float]] = {COMMAND: lambda: process_s(command, clock)}
        for name, program in IMPORTS.items():
            words = [sys.executable, "-c", program]
            sides[name] = lambda words=words: process_s(words, clock)
        turns = take_turns(sides, setting.length.starts)
    how = "wall time of a new process, files in the system's cache"
    return [
        Figure(
            subject=SUBJECT, side=OURS, unit="s", value=turns.median(COMMAND), bar=START_BAR,
            how=f"{COMMAND} of 1,280 x 720 out of the .onnx file, detection included; {how}",
        ),
        *(Figure(subject=SUBJECT, side=name, unit="s", value=turns.median(name)) for name in IMPORTS),
    ]  # fmt: skip
