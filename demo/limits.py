"""What a visitor may ask for, how often, and how a mistake is told."""

import functools
import html
import os
import re
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gradio as gr

from flm.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])

MOST_PICTURE_BYTES = 20 * 2**20
MOST_PICTURE_PIXELS = 40_000_000
"""A camera's; decoded they take 120 MB."""
MOST_VIDEO_BYTES = 100 * 2**20
MOST_VIDEO_S = 60.0
FETCH_S = 10.0

FACES_AT_ONCE = 2
"""Requests that are computed at the same time; the others wait in the queue."""
QUEUE: Mapping[str, Any] = {"concurrency_limit": FACES_AT_ONCE, "concurrency_id": "faces"}
"""Of the events that find the faces of a picture, which share it."""
MOST_WAITING = 200

MOST_CLIENTS = 10_000
"""That are remembered; the one that was silent for longest is forgotten."""

_PATH = re.compile(r"(?<![\w/:.])/(?:[\w.+@-]+/)+[\w.+@-]*")
"""Of a file; that of a URL follows a letter."""

SORRY = "Something went wrong here, and it was not you; try again or try another picture."


class RateLimit:
    """So many requests a minute for each client, all of which may come at once.

    Args:
        per_minute: 0 is no limit.
        now_s: a clock.
    """

    def __init__(self, per_minute: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._now_s = now_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Requests that a client has left, and when that was counted."""
        self._lock = threading.Lock()

    def take(self, client: str) -> None:
        """Count a request.

        Raises:
            InputError: it is one too many.
        """
        if not self.per_minute:
            return
        with self._lock:
            now_s = self._now_s()
            left, then_s = self._left.pop(client, (float(self.per_minute), now_s))
            left = min(float(self.per_minute), left + (now_s - then_s) * self.per_minute / 60)
            self._left[client] = (left - 1 if left >= 1 else left, now_s)
            if len(self._left) > MOST_CLIENTS:
                self._left.popitem(last=False)
        if left < 1:
            wait_s = max(1, round((1 - left) * 60 / self.per_minute))
            raise InputError(
                f"More than {self.per_minute} requests a minute came from you; wait {wait_s} s and try again."
            )


def client_of(request: gr.Request | None) -> str:
    """Who asks, by address. On a Space, a proxy stands between, which says for whom it asks."""
    if request is None or request.client is None:
        return "unknown"
    if "SPACE_ID" in os.environ:
        said = request.headers.get("x-forwarded-for", "")
        # The last one is the proxy's own word; those before it may be anybody's.
        return said.rpartition(",")[2].strip() or request.client.host
    return request.client.host


def told(handler: F) -> F:
    """Have a handler's mistakes told in the page, one sentence each, and never where something lies here."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except InputError as mistake:
            raise gr.Error(sentence(mistake), duration=8, print_exception=False) from mistake
        except gr.Error:
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise gr.Error(SORRY, duration=8, print_exception=False) from error

    return wrapped  # type: ignore[return-value]


def sentence(mistake: InputError) -> str:
    """A mistake as the page says it: HTML, since that is what the page takes it for."""
    text = _PATH.sub("a file of this server", " ".join(str(mistake).split()))
    text = text if text.startswith(("http", "hf:")) else text[:1].upper() + text[1:]
    text = text if text.endswith((".", "!", "?", "…")) else f"{text}."
    return html.escape(text, quote=False)
