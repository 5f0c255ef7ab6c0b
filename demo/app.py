"""The web page: `python demo/app.py`, and as it is a Hugging Face Space. Arguments and launch."""

import argparse
import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flm.errors import InputError, exits_on_input_error

REQUESTS_PER_MINUTE = 120


if TYPE_CHECKING:
    from models import Models


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """How the page is served."""

    checkpoint: str = ""
    """A path or hf://USER/NAME; the model that comes with the page if empty."""
    compare: tuple[str, ...] = ()
    """More models, to compare with."""
    detector: Path | None = None
    """YuNet's ONNX file; beside the model, or fetched once, if not given."""
    host: str | None = None
    port: int | None = None
    """The first that is free from 7860 on if not given."""
    share: bool = False
    allow_private_urls: bool = False
    save_dir: Path | None = None
    """Where visitors' pictures are kept; nowhere if not given."""
    requests_per_minute: int = REQUESTS_PER_MINUTE
    """Of one client; 0 is no limit."""


def parse(arguments: Sequence[str] | None = None) -> DemoConfig:
    """The command line.

    Raises:
        InputError: a number makes no sense, or a model is not there.
    """
    parser = argparse.ArgumentParser(prog="app.py", description="Facial landmarks in a web page.")
    parser.add_argument(
        "--checkpoint", default="", help="a checkpoint, a run, an .onnx file or hf://USER/NAME"
    )
    parser.add_argument(
        "--compare", action="append", default=[], help="another one to compare with; repeatable"
    )
    parser.add_argument("--detector", type=Path, help="YuNet's ONNX file; fetched once if not given")
    parser.add_argument("--host", help="127.0.0.1 if not given")
    parser.add_argument("--port", type=int, help="the first free one from 7860 on if not given")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's server")
    parser.add_argument(
        "--allow-private-urls",
        action="store_true",
        help="fetch pictures from private addresses; for development",
    )
    parser.add_argument("--save-dir", type=Path, help="keep what visitors send in this folder")
    parser.add_argument(
        "--requests-per-minute", type=int, default=REQUESTS_PER_MINUTE, help="of one client; 0 is no limit"
    )
    given = vars(parser.parse_args(arguments))
    if given["port"] is not None and not 0 < given["port"] < 65536:
        raise InputError(f"--port is {given['port']}, expected 1 to 65535")
    if given["requests_per_minute"] < 0:
        raise InputError(f"--requests-per-minute is {given['requests_per_minute']}, expected 0 or more")
    for flag, name in (
        ("--checkpoint", given["checkpoint"]),
        *(("--compare", name) for name in given["compare"]),
    ):
        # At once, and not when all has been imported.
        if name not in ("", "default") and "://" not in name and not Path(name).exists():
            raise InputError(
                f"{flag} {name}: there is no such file or folder; give a run, an .onnx file or hf://…"
            )
    return DemoConfig(**{**given, "compare": tuple(given["compare"])})


@exits_on_input_error
def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted."""
    config = parse(arguments)
    _prepare_environment()
    # The network is read while Gradio is imported.
    with ThreadPoolExecutor(max_workers=1) as background:
        loading = background.submit(_load, config)
        import page

        models = loading.result()
    page.serve(models, config)


def _load(config: DemoConfig) -> "Models":
    from models import Models

    from flm.process.memory import keep_freed_memory

    keep_freed_memory()
    return Models(config.checkpoint, config.compare, config.detector)


def _prepare_environment() -> None:
    """Before Gradio is imported: uploads in a folder that goes with this process, nothing told to others."""
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="flm-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


if __name__ == "__main__":
    main()
