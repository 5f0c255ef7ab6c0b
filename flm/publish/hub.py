"""A folder sent to the Hugging Face Hub, and what can go wrong there, in one line."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of whichever HTTP library the client uses
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from flm.errors import InputError, first_line

_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """Where something is published."""

    name: str
    """USER/NAME."""
    kind: Literal["model", "space"]
    private: bool = False

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise InputError(f"{self.name}: expected USER/NAME, such as your-name/faces")

    @property
    def url(self) -> str:
        """Where people see it."""
        return f"{HfApi().endpoint}/{'spaces/' if self.kind == 'space' else ''}{self.name}"


def check_may_publish(repository: Repository) -> None:
    """Find out before the work whether there is a token, and whose.

    Raises:
        InputError: there is none, it is not accepted, or it is of somebody else than the repository.
    """
    with told_in_one_line(repository):
        about = HfApi().whoami()
    owners = [about.get("name"), *(one.get("name") for one in about.get("orgs", ()))]
    owner = repository.name.partition("/")[0]
    if owner not in owners:
        raise InputError(
            f"{repository.name}: the token is of {owners[0]}; give {owners[0]}/NAME, or log in as {owner}"
        )


def send(folder: Path, repository: Repository, stale: Sequence[str] = ()) -> str:
    """Make the repository what the folder is; what is there with the same content is not sent again.

    Args:
        folder: all its files are sent.
        repository: made if it is not there.
        stale: patterns of files that are removed where the folder has them no more.

    Returns:
        The commit.

    Raises:
        InputError: the Hub refuses, breaks off or cannot be reached; or the repository should be private and
            is public already.
    """
    api = HfApi()
    with told_in_one_line(repository):
        api.create_repo(
            repository.name,
            repo_type=repository.kind,
            private=repository.private or None,
            exist_ok=True,
            space_sdk="gradio" if repository.kind == "space" else None,
        )
        about = api.repo_info(repository.name, repo_type=repository.kind)
    if repository.private and not about.private:
        raise InputError(
            f"{repository.name}: is there already, and is public; make it private at "
            f"{repository.url}/settings, or leave --private out"
        )
    with told_in_one_line(repository, again="; the same command goes on from there"):
        commit = api.upload_folder(
            repo_id=repository.name,
            repo_type=repository.kind,
            folder_path=folder,
            commit_message="Published by flm",
            delete_patterns=list(stale) or None,
        )
    return commit.oid


@contextlib.contextmanager
def told_in_one_line(repository: Repository, again: str = "") -> Iterator[None]:
    """What the Hub's client raises, as an `InputError`.

    Args:
        repository: that it is about.
        again: what is added where another try may help.
    """
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise InputError(f"there is no token of the Hugging Face Hub; {LOG_IN}") from error
    except Exception as error:  # the client raises all sorts
        raise InputError(f"{repository.name}: {_reason(_known(error), repository)}{again}") from error


def _known(error: Exception) -> BaseException:
    """The outermost failure of the network among those that the client wrapped in others."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return next((one for one in chain if isinstance(one, HTTPError | OSError)), error)


def _reason(error: BaseException, repository: Repository) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return f"the token is not accepted; {LOG_IN}"
    if status == 403:
        return f"the token may not write there; {LOG_IN}, or give a name of your own"
    if status == 404:
        return f"there is no such {repository.kind}, or the token may not see it; {LOG_IN}"
    if isinstance(error, HfHubHTTPError):
        said = (error.server_message or "").strip().partition("\n")[0]
        return f"the Hub answers {status} {error.response.reason_phrase} ({said})"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to publish"
    if isinstance(error, HTTPError | OSError):
        return f"the Hub cannot be reached ({first_line(error)}); check the network"
    return first_line(error)
