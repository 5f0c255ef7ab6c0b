"""`python -m shards inspect` and `download`. Parsing only.

What is heavy is imported inside the functions, so that the help comes at once.
"""

import time
from pathlib import Path
from typing import Annotated

import tyro

from flm.errors import InputError
from shards.inspection.options import InspectOptions

Data = Annotated[str, tyro.conf.Positional]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Options = Annotated[InspectOptions, tyro.conf.arg(name="")]
"""Without a name, so that the flags have no prefix."""

DEFAULT_OPTIONS = InspectOptions()
BYTES_PER_MB = 1e6


def inspect(data: Data, *, out: Path, options: Options = DEFAULT_OPTIONS) -> None:
    """A page about a data set: counts, poses, sizes, the mean face, and which annotations look wrong.

    The page is one file that needs nothing from outside; open it in a browser.

    Such as:
      python -m shards inspect data/300w --out report.html

    Args:
        data: Folder of shards, or where it was uploaded: https://…, s3://…, gs://… or hf://datasets/…
        out: The file that is written, HTML.
        options: What the page shows.
    """
    from flm.data.store import open_store
    from shards.inspect import inspect as inspect_store

    start_s = time.perf_counter()
    inspect_store(open_store(data), out, options)
    num_mb = out.stat().st_size / BYTES_PER_MB
    print(f"{out}: {num_mb:.1f} MB, {time.perf_counter() - start_s:.1f} s; open it in a browser")


def ibug(
    *,
    out: Path,
    url: str | None = None,
    sha256: str | None = None,
    yes: Flag = False,
    unpack: bool = True,
    stall_s: float = 30.0,
) -> None:
    """The iBUG 300-W archive of dlib, about 1.8 GB. It is for research only.

    Such as:
      python -m shards download ibug --out data
      python -m shards convert ibug --source data/ibug_300W_large_face_landmark_dataset --out data/300w

    Args:
        out: Folder that gets the archive and what is in it. A download that broke off goes on here.
        url: Of a copy that lies elsewhere.
        sha256: That the archive must have. None is known beforehand; that of what came is printed.
        yes: You agree to the licence, which is printed first.
        unpack: Unpack the archive beside itself.
        stall_s: Seconds without a byte after which a connection counts as broken.
    """
    from flm.data.remote import Patience
    from shards.download import IBUG, download

    if not 0 < stall_s < float("inf"):
        raise InputError(f"--stall-s is {stall_s}, expected seconds, more than 0")
    patience = Patience(stall_s=stall_s)
    place = download(IBUG, out, url=url, sha256=sha256, agreed=yes, unpack=unpack, patience=patience)
    print(place)


ARCHIVES = {"ibug": ibug}
