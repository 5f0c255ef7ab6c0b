"""The page: its tabs, its endpoints, and how it is served."""

import contextlib
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import api
import compare_tab
import gradio as gr
import image_tab
import live_tab
import model_tab
import video_tab
from limits import FACES_AT_ONCE, MOST_VIDEO_BYTES, MOST_WAITING, RateLimit
from models import Models
from theme import css, head, theme

from flm.errors import InputError

if TYPE_CHECKING:
    from app import DemoConfig

TITLE = "Face landmarks"

UPLOADS_KEPT_S = 600
"""A visitor's file is removed after so long, and looked for so often."""

MASTHEAD = (
    '<header id="masthead"><h1>Face landmarks</h1><p>{points} points, and how sure each one is</p></header>'
)


def build(models: Models, config: "DemoConfig") -> gr.Blocks:
    """Lay out the page."""
    rate, private = RateLimit(config.requests_per_minute), config.allow_private_urls
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(UPLOADS_KEPT_S, UPLOADS_KEPT_S)
    ) as blocks:
        gr.HTML(MASTHEAD.format(points=models.main.scheme.num_points), apply_default_css=False)
        with gr.Tabs():
            with gr.Tab("Image"):
                image_tab.build(models.main, rate, allow_private_urls=private, save_dir=config.save_dir)
            with gr.Tab("Live"):
                live_tab.build(models.main, is_limited=config.requests_per_minute > 0)
            with gr.Tab("Video"):
                video_tab.build(models.main, rate, save_dir=config.save_dir)
            with gr.Tab("Compare"):
                compare_tab.build(models, rate, save_dir=config.save_dir)
            with gr.Tab("Model"):
                model_tab.build(blocks, models)
        api.build(api.Endpoints(models, rate, allow_private_urls=private, save_dir=config.save_dir))
    return blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=FACES_AT_ONCE, api_open=False)


def serve(models: Models, config: "DemoConfig") -> None:
    """Serve the page until it is interrupted or told to end."""
    blocks = build(models, config)
    threading.Thread(target=models.warm_up, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _, here, everywhere = blocks.launch(
            server_name=config.host,
            server_port=config.port,
            share=config.share,
            mcp_server=True,
            prevent_thread_lock=True,
            show_error=False,
            max_file_size=MOST_VIDEO_BYTES,
            theme=theme(),
            css=css(),
            head=head(),
            footer_links=["api", "settings"],
            ssr_mode=False,
            enable_monitoring=False,
            quiet=True,
        )
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the page cannot be served ({reason}); choose another --port") from error
    print(f"{TITLE}: {everywhere or here}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    blocks.close(verbose=False)
