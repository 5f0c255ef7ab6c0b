"""The endpoints: for `gradio_client`, for plain HTTP, and for language models through MCP.

Every one has an example in its docstring, which is what their descriptions are made of.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from limits import QUEUE, RateLimit, client_of, told
from models import Models
from overlay import mark_doubtful
from visitor_picture import Picture, keep, picture_at, picture_of, picture_upload

from flm.errors import InputError
from flm.inference.results.files import overlay as drawn
from flm.inference.results.records import picture_record


class Endpoints:
    """What programs may ask for.

    Args:
        models: that answer.
        rate: of each client.
        allow_private_urls: see `picture_at`.
        save_dir: where pictures are kept, if anywhere.
    """

    def __init__(
        self, models: Models, rate: RateLimit, *, allow_private_urls: bool, save_dir: Path | None
    ) -> None:
        self._models = models
        self._rate = rate
        self._allow_private_urls = allow_private_urls
        self._save_dir = save_dir

    @told
    def find_landmarks(self, picture: str | None, url: str, request: gr.Request) -> dict[str, Any]:
        """Find the faces of a picture and the landmarks of each: where eyes, brows, nose, mouth and jaw are.

        Each face has its box, landmarks in px of the picture (0-based, x to the right, y down) with their
        covariance, a score (how likely they are right), yaw, pitch and roll of the head in degrees, and how
        far eyes and mouth are open.

        Example: Client(ADDRESS).predict(handle_file("photo.jpg"), "", api_name="/find_landmarks")["faces"]

        Args:
            picture: The picture: a file, JPEG, PNG, WebP or any other common format.
            url: Its http or https address instead of a file; empty if a file is given.
            request: Of the visitor; Gradio gives it.
        """
        self._rate.take(client_of(request))
        return self._record(self._given(picture, url))

    @told
    def draw_landmarks(self, picture: str | None, url: str, request: gr.Request) -> Picture:
        """Draw the faces of a picture onto it: boxes, landmarks, and the lines between them.

        Example: Client(ADDRESS).predict(handle_file("photo.jpg"), "", api_name="/draw_landmarks")

        Args:
            picture: The picture: a file, JPEG, PNG, WebP or any other common format.
            url: Its http or https address instead of a file; empty if a file is given.
            request: Of the visitor; Gradio gives it.
        """
        self._rate.take(client_of(request))
        pixels = self._given(picture, url)
        return drawn(pixels, self._record(pixels)["faces"], self._models.main.scheme)

    @told
    def describe_model(self, request: gr.Request) -> dict[str, Any]:
        """What the model of this page is: its points, recipe and licence, and how long a face takes here.

        Example: Client(ADDRESS).predict(api_name="/describe_model")["scheme"]

        Args:
            request: Of the visitor; Gradio gives it.
        """
        self._rate.take(client_of(request))
        return {**self._models.facts.about, "ms_per_face": self._models.ms_per_face()}

    def _given(self, picture: str | None, url: str) -> Picture:
        if bool(picture) == bool(url.strip()):
            raise InputError("give either a picture or a url")
        private = self._allow_private_urls
        found = picture_of(picture) if picture else picture_at(url, allow_private=private)
        keep(found, self._save_dir)
        return found

    def _record(self, pixels: Picture) -> dict[str, Any]:
        model = self._models.main
        height, width = pixels.shape[:2]
        record = picture_record("picture", "picture", (width, height), model.predict(pixels), model.scheme)
        mark_doubtful(record["faces"], is_calibrated=model.calibration is not None)
        return record


def build(endpoints: Endpoints) -> None:
    """Add the endpoints to the page that is being laid out."""
    with gr.Column(visible=False):
        picture = picture_upload(label="picture")
        url = gr.Textbox(label="url", value="")
        found, image = gr.JSON(label="faces"), gr.Image(label="picture", format="png")
        trigger = gr.Button("API")
    trigger.click(endpoints.find_landmarks, [picture, url], found, api_name="find_landmarks", **QUEUE)
    trigger.click(endpoints.draw_landmarks, [picture, url], image, api_name="draw_landmarks", **QUEUE)
    trigger.click(endpoints.describe_model, None, found, api_name="describe_model", queue=False)
