"""A checkpoint goes to the Hub and comes back the same, also when the first try breaks off half-way."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import draw_face
from hub_server import TOKENS, Hub, Repo, client_of, running_hub
from publishing import MODEL, Tried, call, write_checkpoint
from tiny_runs import tiny

import flm
from flm.checkpoint import find_checkpoint, load_network
from flm.errors import InputError
from flm.geometry import FaceBox
from flm.inference.export.agreement import random_crops
from flm.inference.export.export import ExportOptions, export_onnx
from flm.inference.load import find_model
from flm.inference.onnx_network import OnnxNetwork
from flm.inference.torch_network import TorchNetwork
from flm.landmarks import IBUG_68
from flm.model.network import LandmarkNetwork
from flm.publish.about import open_checkpoint
from flm.publish.pretrained import PretrainedNetwork
from flm.training.init_from import take_over
from flm.training.run import build

# The Hub's client sends large files in a way that its HTTP library is leaving behind.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "ann/faces"
TOKEN = next(token for token, user in TOKENS.items() if user == "ann")


class Published(NamedTuple):
    hub: Hub
    checkpoint: Path
    network: LandmarkNetwork
    tries: dict[str, Tried]

    @property
    def repo(self) -> Repo:
        return self.hub.repos["models", NAME]


@pytest.fixture(scope="module")
def published(tmp_path_factory, make_shards) -> Iterator[Published]:
    """A dry run, a try that breaks off at the commit, one that goes through, and one with nothing to do."""
    root = tmp_path_factory.mktemp("publish")
    manifest = make_shards(root / "shards", {"train": 8, "validation": 4})
    network = write_checkpoint(root / "run", root / "shards", manifest.content_hash())
    command = ("model", str(root / "run"), NAME, "--private")
    with running_hub() as hub, client_of(hub, root / "home", TOKEN):
        hub.fails_at = f"POST /api/models/{NAME}/commit"
        tries = {"broken": call(hub, *command)}
        hub.fails_at = None
        # An export takes seconds, and makes the same file each time, as a test below shows.
        onnx = next(content for content in hub.large.values() if b"flm.crop_margin" in content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flm.publish.model.export_half", lambda given, file, *how: file.write_bytes(onnx))
            for name, flags in (("whole", ()), ("dry", ("--dry-run",)), ("again", ())):
                tries[name] = call(hub, *command, *flags)
            yield Published(hub, root / "run", network, tries)


def test_a_dry_run_lists_the_files_and_sends_nothing(published):
    dry = published.tries["dry"]
    assert (dry.code, dry.received) == (0, [])
    sizes = {line.split()[1]: line.split()[0] for line in dry.out.splitlines() if line.startswith("  ")}
    weights = (published.checkpoint / "model.safetensors").stat().st_size
    assert sizes["model.safetensors"] == f"{weights:,}"
    assert sizes.keys() - {"bytes"} == published.repo.files.keys()
    assert dry.out.endswith(f"for the private model {NAME}; nothing was sent\n")


def test_a_try_that_broke_off_is_gone_on_with(published):
    broken, whole = published.tries["broken"], published.tries["whole"]
    assert broken.code == 2
    (line,) = [line for line in broken.err.splitlines() if line.startswith("error")]
    assert line == (
        f"error: {NAME}: the Hub answers 507 Insufficient Storage (the disk is full); the same command goes "
        "on from there"
    )
    assert "Traceback" not in broken.err
    weights, onnx = (
        hashlib.sha256(published.repo.files[f"model.{kind}"]).hexdigest() for kind in ("safetensors", "onnx")
    )
    assert {weights, onnx} == set(broken.received)
    assert whole.code == 0, whole.err
    # What had come through is not sent again.
    assert set(whole.received) == published.repo.files.keys() - {"model.safetensors", "model.onnx"}


@pytest.mark.slow
def test_an_export_is_the_same_each_time(published, tmp_path):
    opened = open_checkpoint(published.checkpoint, None)
    export_onnx(
        published.checkpoint, tmp_path / "model.onnx", ExportOptions(precision="half", licence=opened.licence)
    )
    assert (tmp_path / "model.onnx").read_bytes() == published.repo.files["model.onnx"]


def test_what_is_there_is_not_sent_again(published):
    again = published.tries["again"]
    assert (again.code, again.received) == (0, []), again.err
    assert len(published.repo.commits) == 2  # the empty one and ours


def test_the_hub_has_what_was_sent(published):
    files, checkpoint = published.repo.files, published.checkpoint
    assert set(files) == {
        *("README.md", "LICENSE", "config.json", "model.safetensors", "model.onnx"),
        *("calibration.json", "state.json", "SHA256SUMS"),
    } - {"LICENSE"}  # drawn faces are MIT
    assert published.repo.private
    for name in ("model.safetensors", "calibration.json", "state.json"):
        assert files[name] == (checkpoint / name).read_bytes()
    for line in files["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[name]).hexdigest() == digest
    assert "license: mit" in files["README.md"].decode()
    assert f"hf://{NAME}" in files["README.md"].decode()


def test_it_is_loaded_back_before_it_is_called_done(published):
    lines = published.tries["whole"].out.splitlines()
    assert "loaded back with PyTorch: landmarks differ by 0 of the crop's side" in lines
    assert "loaded back with onnxruntime: landmarks differ by 0 of the crop's side" in lines


def test_no_path_of_the_machine_goes_along(published):
    for name, content in published.repo.files.items():
        for path in (str(published.checkpoint.parent), str(Path.home()), "imagenet.safetensors"):
            assert path.encode() not in content or (name, path) == ("README.md", "imagenet.safetensors"), name
    assert json.loads(published.repo.files["config.json"])["data"] == "shards"


def test_the_token_is_nowhere(published, tmp_path):
    for tried in published.tries.values():
        assert TOKEN not in tried.out + tried.err
    for content in [*published.repo.files.values(), *published.hub.large.values()]:
        assert TOKEN.encode() not in content
    home = published.checkpoint.parent
    found = subprocess.run(["grep", "-rl", TOKEN, str(home)], capture_output=True, text=True)
    assert found.stdout == ""


def test_flm_load_takes_its_name(published):
    picture, landmarks = draw_face(5, 200)
    box = FaceBox.around(landmarks)
    (face,) = flm.load(f"hf://{NAME}").predict(picture, [box])
    path = find_model(f"hf://{NAME}")
    assert path.name == "model.onnx"
    (expected,) = flm.load(path).predict(picture, [box])
    np.testing.assert_array_equal(face.landmarks_image, expected.landmarks_image)
    assert face.score is not None  # the calibration came along
    by_torch = TorchNetwork(published.network).find(crops := random_crops(64).pixels)
    halved = OnnxNetwork(path).find(crops)
    np.testing.assert_allclose(halved.landmarks_unit, by_torch.landmarks_unit, atol=0.02)
    assert OnnxNetwork(path).about.licence == "MIT"


def test_its_weights_are_a_checkpoint(published):
    folder = find_model(f"hf://{NAME}", "bf16")
    assert find_checkpoint(folder) == folder
    theirs = load_network(folder).state_dict()
    ours = published.network.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_training_begins_with_it(published, data, tmp_path, fresh_accelerator, capsys):
    run = build(tiny(data, tmp_path / "run", model=MODEL, init_from=f"hf://{NAME}").with_resolved_paths())
    take_over(run)
    ours = published.network.state_dict()
    assert all(torch.equal(run.network.state_dict()[name], ours[name]) for name in ours)
    # The very commit, so that the run says for ever what it began from.
    lasting = f"hf://{NAME}@{published.repo.commits[-1].oid}"
    assert run.config.init_from == lasting
    assert f"--init-from {lasting}: {len(ours)} of {len(ours)} tensors are taken" in capsys.readouterr().out


def test_the_mixin_loads_it_strictly(published, tmp_path):
    network = PretrainedNetwork.from_pretrained(NAME)
    assert not network.training
    crops = random_crops(64).pixels
    found, expected = (TorchNetwork(one).find(crops) for one in (network, published.network))
    np.testing.assert_array_equal(found.landmarks_unit, expected.landmarks_unit)
    network.save_pretrained(tmp_path / "saved")
    assert load_network(tmp_path / "saved").config == network.config
    weights = safetensors.torch.load_file(tmp_path / "saved" / "model.safetensors")
    del weights["head.maps.weight"]
    safetensors.torch.save_file(weights, tmp_path / "saved" / "model.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        PretrainedNetwork.from_pretrained(tmp_path / "saved")
    assert isinstance(PretrainedNetwork.from_pretrained(tmp_path / "saved", strict=False), LandmarkNetwork)


def test_a_model_that_comes_back_otherwise_is_no_success(published, tmp_path, monkeypatch):
    (large,) = [
        key
        for key, content in published.hub.large.items()
        if content == published.repo.files["model.safetensors"]
    ]
    files = published.repo.commits[-1].files
    damaged = bytearray(files["model.safetensors"])
    damaged[-4:] = b"\0\0\0\0"
    monkeypatch.setitem(files, "model.safetensors", bytes(damaged))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("flm.publish.model.send", lambda *given: published.repo.commits[-1].oid)
    tried = call(published.hub, "model", str(published.checkpoint), NAME)
    assert tried.code == 2
    assert "model.safetensors is not what was sent" in tried.err
    assert large in published.hub.large


@pytest.mark.parametrize("name", ["hf://ann", "hf://ann/none", "hf://ann/faces@never"])
def test_what_is_not_on_the_hub_is_told_in_one_line(published, name):
    with pytest.raises(InputError) as caught:
        flm.load(name)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_the_scheme_is_known(published):
    assert flm.load(f"hf://{NAME}").network.scheme is IBUG_68
