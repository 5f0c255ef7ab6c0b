"""A picture in, its faces out."""

from pathlib import Path
from typing import Any

import gradio as gr
from limits import QUEUE, RateLimit, client_of, told
from stage import answer, no_face, thumbnail
from visitor_picture import Picture, keep, picture_at, picture_of, picture_upload

from flm.draw import jpeg_uri
from flm.errors import InputError
from flm.inference.predictor import Predictor
from flm.pictures import read_picture

EXAMPLES = Path(__file__).parent / "examples"
"""Nobody's photographs: faces 2, 6 and 14 of seed 7, rendered by `shards.synthesis.portrait.render`."""

PLACEHOLDER = "# Drop a picture here\nor click to choose one"

PICK_EXAMPLE = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-example]');
  if (button) trigger('click', {example: Number(button.dataset.example)});
});
"""


def examples() -> list[Path]:
    """Pictures to try, rendered by this project."""
    return sorted(EXAMPLES.glob("*.jpg"))


def build(model: Predictor, rate: RateLimit, *, allow_private_urls: bool, save_dir: Path | None) -> None:
    """Lay out the tab, and say what happens in it."""
    with gr.Column(elem_id="ask") as ask:
        upload, address, fetch, gallery = _ask()
    with gr.Column(visible=False, elem_id="answer") as answer_column:
        again = gr.Button("New picture", elem_classes="again", elem_id="again", size="sm")
        result = gr.HTML(elem_id="result", apply_default_css=False)

    def show(picture: Picture, name: str) -> tuple[Any, ...]:
        keep(picture, save_dir)
        faces = model.predict(picture)
        content = answer(picture, faces, model, name) if faces else no_face(picture, model.scheme)
        return gr.update(visible=False), gr.update(visible=True), content

    @told
    def of_upload(path: str | None, request: gr.Request) -> tuple[Any, ...]:
        rate.take(client_of(request))
        return show(picture_of(path), "picture")

    @told
    def of_address(url: str, request: gr.Request) -> tuple[Any, ...]:
        rate.take(client_of(request))
        return show(picture_at(url, allow_private=allow_private_urls), "picture")

    @told
    def of_example(event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        rate.take(client_of(request))
        return show(*_example(event.example))

    outputs = [ask, answer_column, result]
    shown: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": upload}
    once: dict[str, Any] = {**QUEUE, **shown, "api_visibility": "private"}
    upload.input(of_upload, upload, outputs, **once)
    gr.on([fetch.click, address.submit], of_address, address, outputs, **once)
    gallery.click(of_example, None, outputs, **once)
    again.click(
        lambda: (gr.update(visible=True), gr.update(visible=False), "", None),
        None,
        [*outputs, upload],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def _ask() -> tuple[gr.Image, gr.Textbox, gr.Button, gr.HTML]:
    """Where a picture comes in."""
    upload = picture_upload(
        sources=["upload", "webcam", "clipboard"],
        label="Picture",
        height="min(56vh, 480px)",
        placeholder=PLACEHOLDER,
        elem_id="picture",
        webcam_options=gr.WebcamOptions(mirror=False),
    )
    with gr.Row(elem_id="address-row"):
        address = gr.Textbox(
            label="Address of a picture",
            show_label=False,
            placeholder="or its address: https://…",
            elem_id="address",
            max_lines=1,
            scale=4,
            container=False,
        )
        fetch = gr.Button("Fetch", elem_id="fetch", scale=0, min_width=88)
    gallery = gr.HTML(_gallery(), js_on_load=PICK_EXAMPLE, elem_id="examples", apply_default_css=False)
    return upload, address, fetch, gallery


def _example(number: object) -> tuple[Picture, str]:
    paths = examples()
    if not isinstance(number, int) or not 0 <= number < len(paths):
        raise InputError("there is no such example; choose one of the page")
    return read_picture(paths[number], upright=True), paths[number].stem


def _gallery() -> str:
    """A button for each example."""
    buttons = "".join(
        f'<button type="button" class="example" data-example="{number}" aria-label="Example: {path.stem}">'
        f'<img src="{jpeg_uri(thumbnail(read_picture(path, upright=True)))}" alt=""></button>'
        for number, path in enumerate(examples())
    )
    if not buttons:
        return ""
    return f'<div class="examples" role="group" aria-label="Examples"><span>Try one</span>{buttons}</div>'
