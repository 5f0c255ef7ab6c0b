"""What is fetched of the Hugging Face Hub: a file whose content is known, and models."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from flm.errors import InputError, first_line
from flm.files import sha256_of

HUB_PREFIX = "hf://"

WEIGHTS_NAME = "model.safetensors"
WEIGHT_FILES = ("config.json", WEIGHTS_NAME, "calibration.json", "state.json", "SHA256SUMS")
"""Of a model repository: what makes its folder a checkpoint."""

HUB_FILES = (*WEIGHT_FILES, "model.onnx")
"""What `flm publish model` puts there, beside the card."""

ANSWERS_WITHIN_S = 5.0

_COMMIT = re.compile("[0-9a-f]{40}")

_answering: set[str] = set()
"""Hubs that answered this process, which need not be asked again whether they do."""


def hub_file(repository: str, name: str, sha256: str, *, instead: str) -> Path:
    """The file, fetched once a machine, after which nobody is asked, and compared with its hash.

    Args:
        repository: USER/NAME of a model repository.
        name: of the file in it.
        sha256: of its content.
        instead: the flag that names a file that was fetched by other means.

    Raises:
        InputError: it cannot be had, or is another file.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def get(*, local_files_only: bool) -> Path:
        return Path(huggingface_hub.hf_hub_download(repository, name, local_files_only=local_files_only))

    try:
        path = get(local_files_only=True)
    except LocalEntryNotFoundError:
        with _told(f"{repository}/{name}", f"; fetch it by other means and give its path with {instead}"):
            path = get(local_files_only=not _hub_answers())
    found = sha256_of(path)
    if found != sha256:
        raise InputError(
            f"{path}: its sha256 is {found}, expected {sha256}; remove it and try again, or give {instead}"
        )
    return path


def repository_of(name: str) -> tuple[str, str | None]:
    """USER/NAME and the revision of a name such as hf://USER/NAME@REVISION.

    Raises:
        InputError: it is no such name.
    """
    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise InputError(f"{name}: expected hf://USER/NAME or hf://USER/NAME@REVISION")
    return repository, revision or None


def hub_model(name: str, files: Sequence[str] = HUB_FILES) -> Path:
    """The folder of a model, fetched once a machine; its name is that of the commit.

    Where the revision is a commit, and all files are there, nobody is asked.

    Args:
        name: `hf://USER/NAME` or `hf://USER/NAME@REVISION`.
        files: what is fetched of it.

    Raises:
        InputError: there is no such model, or it cannot be fetched.
    """
    repository, revision = repository_of(name)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def get(*, local_files_only: bool) -> Path:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(files), local_files_only=local_files_only
        )
        return Path(folder)

    with _told(name):
        if revision is not None and _COMMIT.fullmatch(revision):
            with contextlib.suppress(LocalEntryNotFoundError):
                folder = get(local_files_only=True)
                if all((folder / file).is_file() for file in files):
                    return folder
        return get(local_files_only=not _hub_answers())


def _hub_answers() -> bool:
    """Whether there is a way to the Hub; huggingface_hub by itself tries for half a minute where is none."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    if constants.ENDPOINT not in _answering:
        try:
            get_session().head(constants.ENDPOINT, timeout=ANSWERS_WITHIN_S)
        except _http_error():
            return False
        _answering.add(constants.ENDPOINT)
    return True


def _http_error() -> type[Exception]:
    """What the HTTP library of the Hub's client raises, whichever it is."""
    from huggingface_hub import errors

    return errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]


@contextlib.contextmanager
def _told(what: str, instead: str = "") -> Iterator[None]:
    """A failure to fetch something, in one line."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        yield
    except (_http_error(), OSError, ValueError) as error:
        reason = first_line(error)
        if isinstance(error, LocalEntryNotFoundError):
            reason = "it does not answer, or is not to be asked, and there is no copy on this machine"
        raise InputError(
            f"{what}: cannot be fetched from the Hugging Face Hub ({reason}){instead}"
        ) from error
