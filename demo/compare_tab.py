"""Two models, or one model that looks in two ways, on the same picture."""

import html
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import numpy as np
from image_tab import PLACEHOLDER
from limits import QUEUE, RateLimit, client_of, told
from models import LOOKS, Models
from overlay import differences
from stage import under
from visitor_picture import Picture, keep, picture_of, picture_upload

from flm.errors import InputError
from flm.faces.shape import inter_ocular_px
from flm.inference.predictor import Prediction, Predictor
from flm.inference.results.records import Record, face_record


def compare(
    picture: Picture, first: Predictor, second: Predictor
) -> tuple[list[Prediction], list[Prediction]]:
    """Both on the faces that the first one's detector finds.

    Raises:
        InputError: they have different points, or there is no face.
    """
    if first.scheme != second.scheme:
        raise InputError(
            f"{first.scheme.name} and {second.scheme.name} are different points; compare models of one scheme"
        )
    faces = first.detector.detect(picture)
    if not faces:
        raise InputError("no face was found; try a picture in which a face is larger and upright")
    return first.predict(picture, faces), second.predict(picture, faces)


def distances_pct(before: Prediction, after: Prediction) -> np.ndarray:
    """How far each point is apart, percent of the distance between the outer eye corners."""
    apart_px = np.linalg.norm(before.landmarks_image - after.landmarks_image, axis=1)
    return 100 * apart_px / inter_ocular_px(before.landmarks_image, before.scheme)


def page(
    picture: Picture, first: Sequence[Prediction], second: Sequence[Prediction], names: tuple[str, str]
) -> str:
    """The picture with both, and how far they are apart."""
    height, width = picture.shape[:2]
    shapes = "".join(
        differences(_record(before), _record(after), float(np.ptp(before.landmarks_image, axis=0).max()))
        for before, after in zip(first, second, strict=True)
    )
    rows = "".join(
        _row(number, before, after)
        for number, (before, after) in enumerate(zip(first, second, strict=True), 1)
    )
    keys = "".join(
        f'<span><i style="background:{color}"></i>{html.escape(name)}</span>'
        for name, color in zip(names, ("var(--predicted)", "var(--other)"), strict=True)
    )
    parts = "".join(f'<th scope="col">{part}</th>' for part in first[0].scheme.parts)
    overlay = (
        f'<svg class="overlay" viewBox="-0.5 -0.5 {width} {height}" role="img" '
        f'aria-label="Landmarks of both">{shapes}</svg>'
    )
    return (
        f'<section class="answer"><p class="key">{keys}</p>'
        f"{under(overlay, picture, 'Your picture')}"
        '<div class="scroll" tabindex="0" role="region" aria-label="Distances">'
        '<table class="faces plain-rows">'
        f'<thead><tr><th scope="col">Face</th><th scope="col">mean</th><th scope="col">largest</th>{parts}'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="soft">Distances between the two, in percent of that between the outer eye corners.</p>'
        "</section>"
    )


def _record(face: Prediction) -> Record:
    return face_record(face, "the picture")


def _row(number: int, before: Prediction, after: Prediction) -> str:
    apart = distances_pct(before, after)
    largest = int(apart.argmax())
    cells = [f"{apart.mean():.2f} %", f"{apart[largest]:.1f} % (point {largest})"]
    cells += [f"{apart[list(points)].mean():.2f} %" for points in before.scheme.parts.values()]
    return f'<tr><th scope="row">{number}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def build(models: Models, rate: RateLimit, *, save_dir: Path | None) -> None:
    """Lay out the tab, and say what happens in it."""
    chosen = _choices(models)
    upload = picture_upload(
        sources=["upload", "clipboard"],
        label="Picture",
        height="min(32vh, 260px)",
        placeholder=PLACEHOLDER,
        elem_id="compare-picture",
    )
    result = gr.HTML(apply_default_css=False, elem_id="compare-result")

    @told
    def run(path: str | None, name: str, look: str, other: str, other_look: str, request: gr.Request) -> str:
        rate.take(client_of(request))
        if path is None:
            return ""
        picture = picture_of(path)
        keep(picture, save_dir)
        found = compare(picture, models.chosen(name, look), models.chosen(other, other_look))
        return page(picture, *found, (f"{name}, {look}", f"{other}, {other_look}"))

    events = [upload.input, upload.clear, *(choice.input for choice in chosen)]
    gr.on(
        events,
        run,
        [upload, *chosen],
        result,
        show_progress="minimal",
        # A picture that comes while a choice is still answered is not passed over.
        trigger_mode="always_last",
        api_visibility="private",
        **QUEUE,
    )


def _choices(models: Models) -> list[gr.Dropdown]:
    """Model and look of the first, and of the second."""
    looks = list(LOOKS)
    second_name = models.names[1] if len(models.names) > 1 else models.names[0]
    second_look = looks[0] if len(models.names) > 1 else looks[1]
    chosen = []
    with gr.Row(elem_classes="pair"):
        for title, name, look in (("First", models.names[0], looks[0]), ("Second", second_name, second_look)):
            with gr.Column(min_width=280):
                chosen.append(
                    gr.Dropdown(
                        models.names,
                        value=name,
                        label=f"{title} model",
                        info="or hf://USER/NAME of the Hugging Face Hub",
                        allow_custom_value=True,
                    )
                )
                chosen.append(gr.Dropdown(looks, value=look, label=f"{title} looks"))
    return chosen
