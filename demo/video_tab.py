"""A clip in; the clip with landmarks, charts and files out."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from clip import DRAWN, annotate, charts_of, checked_video, write_track
from gradio.data_classes import FileData
from limits import MOST_VIDEO_BYTES, MOST_VIDEO_S, RateLimit, client_of, told

from flm.inference.predictor import Predictor

VIDEOS_AT_ONCE = 1

NOTE = (
    f'<p class="soft">Up to {MOST_VIDEO_S:.0f} s, {MOST_VIDEO_BYTES // 2**20} MB and 1920 by 1080 px. '
    "It is looked at and forgotten.</p>"
)


def build(predictor: Predictor, rate: RateLimit, *, save_dir: Path | None) -> None:
    """Lay out the tab, and say what happens in it."""
    with gr.Column() as ask:
        upload = _upload()
        drawn = gr.CheckboxGroup(DRAWN, value=DRAWN[:2], label="Drawn", container=False, elem_id="drawn")
        go = gr.Button("Find the landmarks", variant="primary", elem_id="find")
        gr.HTML(NOTE, apply_default_css=False)
    with gr.Column(visible=False, elem_id="video-answer") as answer:
        again = gr.Button("New video", size="sm", elem_classes="again")
        clip = gr.Video(label="With landmarks", show_label=False, height="min(56vh, 480px)", elem_id="clip")
        with gr.Row():
            lines = gr.DownloadButton("JSONL", size="sm", elem_id="video-jsonl")
            table = gr.DownloadButton("CSV", size="sm", elem_id="video-csv")
        charts = gr.HTML(apply_default_css=False, elem_id="charts")

    @told
    def follow(
        path: str | None, chosen: list[str], request: gr.Request, progress: gr.Progress
    ) -> tuple[Path, str]:
        rate.take(client_of(request))
        return _followed(path, chosen, predictor, save_dir, progress)

    def run(
        path: str | None,
        chosen: list[str],
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - as Gradio asks for it
    ) -> Iterator[tuple[Any, ...]]:
        folder, shown = follow(path, chosen, request, progress)
        files = [str(folder / name) for name in ("landmarks.mp4", "track.jsonl", "track.csv")]
        try:
            yield gr.update(visible=False), gr.update(visible=True), *files, shown
        finally:
            # Gradio has copies by now, which it removes by itself.
            shutil.rmtree(folder, ignore_errors=True)

    outputs = [ask, answer, clip, lines, table, charts]
    once: dict[str, Any] = {"concurrency_limit": VIDEOS_AT_ONCE, "concurrency_id": "videos"}
    go.click(run, [upload, drawn], outputs, show_progress_on=upload, api_visibility="private", **once)
    again.click(
        lambda: (gr.update(visible=True), gr.update(visible=False), None, None, None, "", None),
        None,
        [*outputs, upload],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def _upload() -> gr.Video:
    upload = gr.Video(
        sources=["upload"],
        label="Video",
        show_label=False,
        height="min(50vh, 420px)",
        elem_id="video",
        buttons=[],
    )
    upload.preprocess = _as_it_came
    return upload


def _as_it_came(payload: FileData | None) -> str | None:
    """The file's path; nothing is converted before it was checked."""
    return None if payload is None else payload.path


def _followed(
    upload: str | None, drawn: list[str], model: Predictor, save_dir: Path | None, progress: gr.Progress
) -> tuple[Path, str]:
    """The folder of the clip and its files, and its charts."""
    video = checked_video(upload)
    # Not in the folder of uploads, of which Gradio would make no copy.
    folder = Path(tempfile.mkdtemp(prefix="clip-"))
    try:
        if save_dir is not None:
            save_dir.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, save_dir / f"{folder.name}{video.suffix}")

        def advance(share: float) -> None:
            progress(share, desc="Following")

        track = annotate(video, folder / "landmarks.mp4", model, drawn, advance)
        write_track(track, folder, model.scheme.num_points)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, charts_of(track)
