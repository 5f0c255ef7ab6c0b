"""What can go wrong at the Hub is one line and exit code 2, and the token is in none of them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKENS, Hub, Repo, client_of, running_hub
from pages import block
from publishing import call

from flm.cli import main
from flm.errors import InputError
from flm.publish.hub import Repository, check_may_publish, send

# The Hub's client sends large files in a way that its HTTP library is leaving behind.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ANN, BOB = TOKENS
NAME = "ann/faces"


@pytest.fixture
def hub(tmp_path) -> Iterator[Hub]:
    with running_hub() as hub, client_of(hub, tmp_path / "home", ANN):
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "sent"
    (folder / "inner").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "inner" / "small.txt").write_text("small")
    (folder / "large.bin").write_bytes(bytes(range(256)) * 1000)
    return folder


def repository(**changes) -> Repository:
    return Repository(**{"name": NAME, "kind": "model", **changes})


def mistake(hub: Hub, tmp_path: Path, name: str = NAME) -> str:
    """What the command says, before it opens any checkpoint."""
    tried = call(hub, "model", str(tmp_path / "no checkpoint"), name)
    assert tried.code == 2
    assert tried.out == ""
    (line,) = tried.err.splitlines()
    assert not any(token in line for token in TOKENS)
    return line.removeprefix("error: ")


def test_no_token(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert mistake(hub, tmp_path) == (
        "there is no token of the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN to a token that may "
        "write"
    )


def test_a_token_that_is_not_accepted(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{ANN}_revoked")
    line = mistake(hub, tmp_path)
    assert line.startswith(f"{NAME}: the token is not accepted; run `hf auth login`")
    assert "revoked" not in line


def test_somebody_elses_name(hub, tmp_path):
    told = "bob/faces: the token is of ann; give ann/NAME, or log in as bob"
    assert mistake(hub, tmp_path, "bob/faces") == told


def test_an_organisations_name(hub, tmp_path):
    # Past the owner, and stopped only by a checkpoint that is not there.
    assert mistake(hub, tmp_path, "institute/faces").startswith(
        f"{tmp_path}/no checkpoint: no checkpoint here"
    )


@pytest.mark.parametrize(
    "name", ["faces", "", "ann/", "/faces", "ann/faces/more", "hf://ann/faces", "ann/fa ces"]
)
def test_a_name_without_a_user(hub, tmp_path, name):
    assert mistake(hub, tmp_path, name) == f"{name}: expected USER/NAME, such as your-name/faces"
    assert hub.asked == []


def test_no_network(hub, tmp_path, monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{listening.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    line = mistake(hub, tmp_path)
    assert line.startswith(f"{NAME}: the Hub cannot be reached (")
    assert line.endswith("; check the network")


def test_offline(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert mistake(hub, tmp_path) == f"{NAME}: HF_HUB_OFFLINE is set; unset it to publish"


def test_a_token_that_may_only_read(hub, folder):
    hub.fails_at, hub.fails_with = "POST /api/repos/create", 403
    with pytest.raises(InputError, match=r"^ann/faces: the token may not write there; run `hf auth login`"):
        send(folder, repository())


def test_a_repository_of_somebody_else(hub, folder):
    hub.repos["models", "bob/faces"] = Repo("models", private=False, sdk=None)
    with pytest.raises(InputError, match=r"^bob/faces: the token may not write there"):
        send(folder, repository(name="bob/faces"))
    assert hub.received == []


def test_what_is_public_does_not_become_private_unseen(hub, folder):
    send(folder, repository())
    before = list(hub.received)
    with pytest.raises(
        InputError, match=r"is there already, and is public; make it private at http://127.*/settings"
    ):
        send(folder, repository(private=True))
    assert hub.received == before


def test_a_repository_is_made_and_brought_up_to_date(hub, folder):
    commit = send(folder, repository(private=True))
    repo = hub.repos["models", NAME]
    assert repo.private
    assert repo.commits[-1].oid == commit
    assert repo.files.keys() == {"README.md", "inner/small.txt", "large.bin"}
    assert send(folder, repository(private=True)) == commit
    (folder / "inner" / "small.txt").write_text("other")
    hub.received.clear()
    send(folder, repository())  # private it stays
    assert hub.received == ["inner/small.txt"]
    assert repo.private
    assert repo.files["inner/small.txt"] == b"other"


@pytest.mark.parametrize(
    "where", ["PUT /large/", "POST /api/models/ann/faces/preupload", "POST /ann/faces.git"]
)
def test_it_may_break_off_anywhere(hub, folder, where):
    hub.fails_at = where
    with pytest.raises(InputError) as caught:
        send(folder, repository())
    assert str(caught.value) == (
        "ann/faces: the Hub answers 507 Insufficient Storage (the disk is full); the same command goes on "
        "from there"
    )
    assert hub.repos["models", NAME].files == {}
    hub.fails_at = None
    send(folder, repository())
    assert len(hub.repos["models", NAME].files) == 3
    assert len(hub.received) == 3


def test_only_stale_files_of_ours_are_removed(hub, folder):
    send(folder, repository(kind="space"))
    files = hub.repos["spaces", NAME].files
    files |= {"inner/old.txt": b"old", "notes.txt": b"of the owner"}
    send(folder, repository(kind="space"), stale=("inner/*",))
    assert hub.repos["spaces", NAME].files.keys() == {
        "README.md",
        "inner/small.txt",
        "large.bin",
        "notes.txt",
    }
    assert hub.repos["spaces", NAME].sdk == "gradio"


def test_who_may_publish_is_asked_once(hub):
    check_may_publish(repository())
    assert hub.asked.count("GET /api/whoami-v2") == 1


def test_the_commands_of_the_readme_are_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = block("publish").splitlines()
    assert len(commands) > 3
    for command in commands:
        words = command.removeprefix("flm ").split()
        with pytest.raises(SystemExit):
            main([*words, *(["--dry-run"] if words[1] in ("model", "space") else [])])
        # Past the flags, and stopped only by what is not there: a report, or the Hub.
        line = capsys.readouterr().err
        told = ("report.json: cannot be read", "you/faces: HF_HUB_OFFLINE is set")
        assert line.removeprefix("error: ").startswith(told)
