"""The page as its visitors meet it: a real server on loopback, asked through Gradio's own client."""

import base64
import io
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import REPOSITORY
from demo_server import DEMO, Page, demo_module, expected_landmarks, red_picture, serving, write_network
from pages import block
from PIL import Image
from test_pictures import claiming

from flm.bench.demo.page_server import client_of
from flm.errors import InputError

gradio_client = pytest.importorskip("gradio_client", reason="Gradio is not installed")

pytestmark = [
    pytest.mark.multiprocess,
    # Gradio's client leaves sockets and event loops to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SENTENCE_LIMIT = 250


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, ["--requests-per-minute", "0"]) as running:
        yield running


@pytest.fixture(scope="module")
def client(page: Page):
    return client_of(page.url)


def file(folder: Path, content: bytes, name: str = "picture.png"):
    path = folder / name
    path.write_bytes(content)
    return gradio_client.handle_file(str(path))


def mistake_of(call: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the client has several
        call()
    return str(caught.value)


def test_landmarks_are_where_they_belong(client, tmp_path):
    record = client.predict(file(tmp_path, red_picture(100)), "", api_name="/find_landmarks")
    assert (record["width"], record["height"], record["scheme"]) == (160, 160, "ibug-68")
    (face,) = record["faces"]
    np.testing.assert_allclose(face["landmarks"], expected_landmarks(100), atol=0.01)
    assert face["likely_wrong"] is None  # without a calibration nobody knows
    assert face["pose"].keys() == {"yaw_deg", "pitch_deg", "roll_deg"}


def test_a_picture_comes_back_with_dots(client, tmp_path):
    path = client.predict(file(tmp_path, red_picture(128)), "", api_name="/draw_landmarks")
    drawn = np.asarray(Image.open(path).convert("RGB")).astype(int)
    scale = drawn.shape[0] / 160
    for x, y in (expected_landmarks(128) + 0.5) * scale - 0.5:
        red, green, blue = drawn[round(y), round(x)]
        assert red > 200
        assert blue > 150 > green


def test_the_model_says_what_it_is(client):
    about = client.predict(api_name="/describe_model")
    assert (about["scheme"], about["recipe"]) == ("ibug-68", "made by hand")


def test_only_the_endpoints_are_public(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/find_landmarks", "/draw_landmarks", "/describe_model"}
    for endpoint in named.values():
        assert "Example" in endpoint["description"]


def test_a_language_model_finds_them(page):
    with urllib.request.urlopen(f"{page.url}gradio_api/mcp/schema", timeout=20) as answer:
        schema = json.loads(answer.read())
    names = {entry["name"] for entry in schema}
    assert len(schema) == 3
    assert any(name.endswith("find_landmarks") for name in names)
    found = next(entry for entry in schema if entry["name"].endswith("find_landmarks"))
    assert found["inputSchema"]["properties"].keys() == {"picture", "url"}
    assert "landmarks" in found["description"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/a.png", "not of the public internet"),
        ("http://localhost/a.png", "not of the public internet"),
        ("http://[::1]/a.png", "not of the public internet"),
        ("http://169.254.169.254/latest/meta-data", "not of the public internet"),
        ("http://0x7f000001/", "not of the public internet"),
        ("file:///etc/passwd", "begins with http"),
        ("ftp://example.org/a.png", "begins with http"),
        ("/etc/passwd", "begins with http"),
    ],
)
def test_addresses_of_the_inside_are_refused(client, url, words):
    told = mistake_of(lambda: client.predict(None, url, api_name="/find_landmarks"))
    assert words in told
    assert "Traceback" not in told


def test_gradio_fetches_nothing_from_the_inside_either(page, client):
    picture = {"path": f"{page.url}theme.css", "meta": {"_type": "gradio.FileData"}}
    told = mistake_of(lambda: client.predict(picture, "", api_name="/find_landmarks"))
    assert "Traceback" not in told
    picture = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    told = mistake_of(lambda: client.predict(picture, "", api_name="/find_landmarks"))
    assert "root:" not in told


def test_both_or_neither_picture_is_a_sentence(client, tmp_path):
    told = mistake_of(lambda: client.predict(None, "", api_name="/find_landmarks"))
    assert told == "Give either a picture or a url."


MALFORMED = {
    "empty.png": b"",
    "cut.png": red_picture(90)[:60],
    "text.jpg": b"this is no picture",
    "script.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "page.html": b"<html><script>alert(1)</script></html>",
    "clip.png": b"\x00\x00\x00\x18ftypmp42" + bytes(64),
    "zip.png": b"PK\x03\x04" + bytes(100),
    "..%2f..%2fetc%2fpasswd": b"root:x:0:0",
    "bomb.png": claiming(50_000, 50_000, ".png"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_upload_is_a_sentence_and_the_server_lives(page, client, tmp_path, name):
    sent = file(tmp_path, MALFORMED[name], name)
    told = mistake_of(lambda: client.predict(sent, "", api_name="/find_landmarks"))
    assert told.endswith(".")
    assert "\n" not in told
    assert len(told) < SENTENCE_LIMIT
    for secret in ("Traceback", str(page.uploads), str(REPOSITORY), "/tmp", ".py"):
        assert secret not in told
    assert page.process.poll() is None


def test_the_server_saw_no_error_of_its_own(page, client, tmp_path):
    """After all that; a mistake that nobody had thought of leaves a traceback in its log."""
    client.predict(file(tmp_path, red_picture(90)), "", api_name="/find_landmarks")
    assert f'File "{DEMO}' not in page.log.read_text()


def test_clients_get_their_own_answers(page, tmp_path):
    answers: dict[int, list[float]] = {}
    mistakes: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            mine = client_of(page.url)
            for turn in range(4):
                red = 20 + 30 * number + turn
                sent = file(tmp_path, red_picture(red), f"{red}.png")
                record = mine.predict(sent, "", api_name="/find_landmarks")
                answers[red] = np.mean(record["faces"][0]["landmarks"], axis=0).tolist()
        except BaseException as mistake:
            mistakes.append(mistake)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mistakes
    assert len(answers) == 24
    for red, middle in answers.items():
        np.testing.assert_allclose(middle, expected_landmarks(red).mean(axis=0), atol=0.01)


def camera_frame(red: int) -> str:
    content = io.BytesIO()
    Image.fromarray(np.full((160, 160, 3), (red, 0, 0), np.uint8)).save(content, "JPEG", quality=95)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def send_frame(page: Page, message: object) -> dict:
    with urllib.request.urlopen(f"{page.url}config", timeout=20) as answer:
        components = json.loads(answer.read())["components"]
    live = next(part for part in components if part["props"].get("elem_id") == "live")
    body = {"data": [message], "component_id": live["id"], "fn_name": "frame", "session_hash": "test"}
    request = urllib.request.Request(
        f"{page.url}gradio_api/component_server",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


TOKEN = "00000000-0000-4000-8000-000000000000"


def test_a_frame_of_the_camera_is_answered(page):
    message = {"image": camera_frame(120), "token": TOKEN, "record": True, "filter": {"beta": 3}}
    first, second = send_frame(page, message), send_frame(page, message)
    for answer in (first, second):
        assert answer["svg"].startswith("<svg")
        (face,) = answer["faces"]
        np.testing.assert_allclose(face["landmarks"], expected_landmarks(120), atol=1.5)
    assert first["faces"][0]["track_id"] == second["faces"][0]["track_id"]


@pytest.mark.parametrize(
    "message",
    [None, 7, [], {}, {"image": "data:image/png;base64,AAAA", "token": "short"}, {"image": 5, "token": TOKEN},
     {"image": "data:image/png;base64,AAAA", "token": TOKEN}, {"image": "data:text/plain,hi", "token": TOKEN},
     {"image": "/etc/passwd", "token": TOKEN}],
)  # fmt: skip
def test_what_is_no_frame_is_a_sentence(page, message):
    told = send_frame(page, message)["error"]
    assert told.endswith(".")
    assert "Traceback" not in told


def write_later(folder: Path) -> None:
    """Models as a later flm may write them."""
    write_network(folder / "later.onnx")
    network = onnx.load(folder / "later.onnx")
    (version,) = [entry for entry in network.metadata_props if entry.key == "flm.version"]
    version.value = "99"
    onnx.save(network, folder / "later.onnx")
    (folder / "later").mkdir()
    (folder / "later" / "model.safetensors").touch()
    (folder / "later" / "config.json").write_text(json.dumps({"schema_version": 99}))


def run_app(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO / "app.py"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--checkpoint", "missing"], "missing"),
        (["--checkpoint", "text.onnx"], "text.onnx"),
        (["--checkpoint", "later.onnx"], "of version 99, this flm reads 1"),
        (["--checkpoint", "later"], "checkpoint of version 99, this flm reads 1"),
        (["--compare", "missing.onnx"], "--compare missing.onnx: there is no such file"),
        (["--port", "0"], "--port is 0"),
        (["--requests-per-minute", "-1"], "--requests-per-minute is -1"),
    ],
)
def test_a_mistake_at_the_start_is_one_line(tmp_path, words, told):
    (tmp_path / "text.onnx").write_text("no network")
    write_later(tmp_path)
    done = run_app(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_readmes_commands_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = demo_module("app")
    commands = block("page").splitlines()
    assert len(commands) > 2
    for command in commands:
        words = command.removeprefix("python demo/app.py ").split()
        # Past the flags, and stopped only by a checkpoint that is not there.
        with pytest.raises(InputError, match=f"--checkpoint {words[1]}: there is no such file"):
            app.parse(words)
        for path in ("runs/quick", "runs/small"):
            Path(path).mkdir(parents=True, exist_ok=True)
        Path("quick.onnx").touch()
        assert app.parse(words).checkpoint == words[1]
        for path in ("runs/quick", "runs/small"):
            Path(path).rmdir()
        Path("quick.onnx").unlink()


def test_too_many_requests_are_told(tmp_path):
    # One a minute: what is counted anew in the meantime does not depend on how busy the machine is.
    with serving(tmp_path, ["--requests-per-minute", "1", "--save-dir", str(tmp_path / "kept")]) as limited:
        mine = client_of(limited.url)
        mine.predict(file(tmp_path, red_picture(30)), "", api_name="/find_landmarks")
        told = mistake_of(lambda: mine.predict(api_name="/describe_model"))
        assert "requests a minute" in told
    assert len(list((tmp_path / "kept").iterdir())) == 1
