"""A file of the Hugging Face Hub whose content is known."""

import hashlib
from pathlib import Path

from flm.errors import InputError


def hub_file(repository: str, name: str, sha256: str, *, instead: str) -> Path:
    """The file, fetched once a machine and compared with its hash.

    Args:
        repository: USER/NAME of a model repository.
        name: of the file in it.
        sha256: of its content.
        instead: the flag that names a file that was fetched by other means.

    Raises:
        InputError: it cannot be had, or is another file.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        path = Path(huggingface_hub.hf_hub_download(repository, name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{repository}/{name} cannot be fetched from the Hugging Face Hub ({reason}); fetch it by other "
            f"means and give its path with {instead}"
        ) from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise InputError(
            f"{path}: its sha256 is {found}, expected {sha256}; remove it and try again, or give {instead}"
        )
    return path
