"""Models of the Hub are fetched once, with as few questions as there can be, and a failure is one line."""

from collections.abc import Iterator

import pytest
from hub_server import Handler, Hub, Repo, client_of, running_hub

from flm.errors import InputError
from flm.inference import hub_file
from flm.inference.hub_file import hub_model
from flm.inference.load import find_model

NAME = "ann/faces"
COMMIT = "0" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """With one model, of which there are only weights for onnxruntime."""
    monkeypatch.setattr(hub_file, "_answering", set())
    repo = Repo("models", private=False, sdk=None)
    repo.files["model.onnx"] = b"weights"
    with running_hub() as hub, client_of(hub, tmp_path / "home", token=None):
        hub.repos["models", NAME] = repo
        yield hub


def test_whether_it_answers_is_asked_once(hub):
    for _ in range(3):
        assert (hub_model(f"hf://{NAME}") / "model.onnx").read_bytes() == b"weights"
    assert sum(asked in ("HEAD /", "HEAD ") for asked in hub.asked) == 1


def test_nobody_is_asked_for_a_commit_that_is_there(hub):
    path = find_model(f"hf://{NAME}@{COMMIT}")
    assert path.read_bytes() == b"weights"
    hub.asked.clear()
    assert find_model(f"hf://{NAME}@{COMMIT}") == path
    assert hub.asked == []
    # But for what is not there, and for a name that may mean another commit by now.
    (path.parent / path.name).unlink()
    assert find_model(f"hf://{NAME}@{COMMIT}") == path
    assert hub.asked != []
    hub.asked.clear()
    assert find_model(f"hf://{NAME}") == path
    assert hub.asked != []


def test_an_answer_that_breaks_off_is_one_line(hub, monkeypatch):
    monkeypatch.setattr(
        Handler,
        "send_bytes",
        lambda handler, *_, **__: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    )
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.0")
    with pytest.raises(InputError, match=f"hf://{NAME}: cannot be fetched from the Hugging Face Hub") as told:
        hub_model(f"hf://{NAME}")
    assert "\n" not in str(told.value)
