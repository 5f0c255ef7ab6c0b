"""The web page, served for a measurement, and what it answers to a program."""

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from flm.bench.measure import free_port
from flm.errors import InputError

APP = Path(__file__).parents[3] / "demo" / "app.py"

FACE = APP.parent / "examples" / "smile.jpg"
"""A face that is nobody's."""

STARTS_WITHIN_S = 120.0
ENDS_WITHIN_S = 20.0
ANSWERS_WITHIN_S = 120.0
"""Each request; by themselves clients give it 5 s, which many visitors at once may need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedPage:
    """A page that answers."""

    url: str
    process: subprocess.Popen[bytes]
    started_s: float
    """From the command to the first answer."""


@contextlib.contextmanager
def served(checkpoint: str = "", detector: Path | None = None) -> Iterator[ServedPage]:
    """Start `python demo/app.py`, and end it.

    Args:
        checkpoint: the model that comes with the page if empty.
        detector: YuNet's file, where the page would have to fetch it.

    Raises:
        InputError: there is no page beside this flm, or it does not start.
    """
    if not APP.is_file():
        raise InputError(f"{APP}: there is no page beside this flm; run the command in a checkout")
    port = free_port()
    words = ["--checkpoint", checkpoint] if checkpoint else []
    words += ["--detector", str(detector)] if detector is not None else []
    command = [sys.executable, str(APP), "--port", str(port), "--requests-per-minute", "0", *words]
    start_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        _wait_for(url, process)
        yield ServedPage(url=url, process=process, started_s=time.monotonic() - start_s)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_WITHIN_S)
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise InputError("the page does not start; see the line before this")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise InputError(f"the page does not start within {STARTS_WITHIN_S:.0f} s")


def client_of(url: str) -> Any:
    """Gradio's client."""
    from gradio_client import Client

    return Client(url, verbose=False, httpx_kwargs={"timeout": ANSWERS_WITHIN_S})


def ask(client: Any, picture: Path) -> Float64[np.ndarray, "points 2"]:
    """The landmarks of the first face, px of the picture."""
    from gradio_client import handle_file

    record = client.predict(handle_file(str(picture)), "", api_name="/find_landmarks")
    return np.array(record["faces"][0]["landmarks"], np.float64)
