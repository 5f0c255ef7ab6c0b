"""Files that are there whole or not at all."""

import contextlib
import os
from pathlib import Path

from flm.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a machine that dies, meets the old content or the new one.

    Folders that are missing are made.

    Raises:
        InputError: the file cannot be written, as on a full disk; what was there before is still there.
    """
    # The name of this process, since two of them may write the same file.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
