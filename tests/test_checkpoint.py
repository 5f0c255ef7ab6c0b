"""Checkpoints: whole or not at all, found again, told in one line when they do not fit."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from test_files import no_file_above

from flm.checkpoint import (
    CHECKPOINTS,
    TrainingState,
    find_checkpoint,
    load_network,
    load_state,
    load_tensors,
    load_training,
    read_config,
)
from flm.errors import InputError
from flm.fields import to_fields
from flm.model.network import LandmarkNetwork, ModelConfig, build_network
from flm.training.checkpoint_writer import save_checkpoint
from flm.training.config import TrainConfig
from flm.training.optimization import OptimizerConfig, build_optimizer, optimizer_tensors
from flm.training.resume import find_training

CONFIG = TrainConfig(
    recipe="x",
    model=ModelConfig(backbone="xception_compact_slim", head="regression", input_size_px=64, dropout=0.5),
)
FILES = {"config.json", "model.safetensors", "state.json", "training.safetensors", "SHA256SUMS"}


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    """With weights, batch statistics and moments that have moved."""
    torch.manual_seed(0)
    network = build_network(CONFIG.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()(torch.rand(4, 3, 64, 64))
    return network


def save(run: Path, network: LandmarkNetwork, step: int, *, is_best: bool = False, keep: int = 2) -> Path:
    state = TrainingState(
        step=step,
        manifest_hash="abc",
        best_score=4.5,
        best_step=step,
        scaler={"scale": 65536.0, "_growth_tracker": 3},
        validation={"nme_pct": 4.5},
    )
    weights = network.state_dict()
    training = {f"network.{name}": value for name, value in weights.items()}
    return save_checkpoint(run, CONFIG, state, model=weights, training=training, is_best=is_best, keep=keep)


def steps_in(run: Path) -> list[int]:
    """Of the checkpoints; nothing else is there."""
    return sorted(int(folder.name.removeprefix("step_")) for folder in (run / CHECKPOINTS).iterdir())


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.fixture
def run(tmp_path, network) -> Path:
    save(tmp_path / "run", network, 100, is_best=True)
    return tmp_path / "run"


def test_a_network_comes_back_with_the_same_answers(run, network):
    images = torch.rand(2, 3, 64, 64)
    expected = network.eval()(images).landmarks_unit
    for path in (run, run / "best", run / "last", run / CHECKPOINTS / "step_0000100"):
        loaded = load_network(path)
        assert not any(module.training for module in loaded.modules())
        assert loaded.config == CONFIG.model
        # The order in memory is not stored, and changes the last bits of a sum.
        loaded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert torch.equal(loaded(images).landmarks_unit, expected)


def test_state_and_tensors_come_back_bit_by_bit(tmp_path, network):
    optimizer = build_optimizer(network, OptimizerConfig())
    network.train()(torch.rand(4, 3, 64, 64)).landmarks_unit.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    moments = optimizer_tensors(optimizer)
    state = TrainingState(step=7, manifest_hash="ü", best_score=None, scaler=None)
    folder = save_checkpoint(
        tmp_path, CONFIG, state, model=network.state_dict(), training=moments, is_best=False, keep=1
    )
    back, model, training = load_training(folder)
    assert back == state
    for found, stored in ((model, network.state_dict()), (training, moments)):
        assert found.keys() == stored.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, stored[name]), name
            assert tensor.dtype == stored[name].dtype
    assert load_training(save(tmp_path, network, 8))[0].scaler == {"scale": 65536.0, "_growth_tracker": 3}


def test_the_whole_configuration_is_kept(run):
    fields = read_config(run / "last")
    assert fields == json.loads(json.dumps(to_fields(CONFIG)))


def test_nothing_is_pickled_and_nothing_is_left_over(run):
    assert {file.name for file in (run / "last").iterdir()} == FILES
    assert {file.name for file in run.iterdir()} == {CHECKPOINTS, "best", "last"}
    for file in (run / "last").iterdir():
        content = file.read_bytes()
        # A zip, as torch.save writes; and protocol 2 and above of pickle.
        assert not content.startswith((b"PK", b"\x80"))
        if file.suffix == ".json":
            assert content.endswith(b"}\n")


def test_links_are_relative_and_a_run_may_move(run, tmp_path, network):
    save(run, network, 200)
    assert (run / "last").readlink() == Path(CHECKPOINTS, "step_0000200")
    assert (run / "best").readlink() == Path(CHECKPOINTS, "step_0000100")
    run.rename(tmp_path / "moved")
    assert find_checkpoint(tmp_path / "moved").resolve().name == "step_0000100"
    assert find_training(tmp_path / "moved", "auto") == tmp_path / "moved" / CHECKPOINTS / "step_0000200"


def test_a_run_without_a_best_is_its_last(tmp_path, network):
    save(tmp_path, network, 100)
    save(tmp_path, network, 200)
    assert find_checkpoint(tmp_path).resolve().name == "step_0000200"


def test_old_ones_go_but_the_best_stays(tmp_path, network):
    kept = []
    for step in range(100, 700, 100):
        save(tmp_path, network, step, is_best=step in (200, 400), keep=2)
        kept.append(steps_in(tmp_path))
    assert kept == [
        [100],
        [100, 200],
        [200, 300],
        [300, 400],
        [400, 500],
        [400, 500, 600],
    ]
    assert (tmp_path / "best").resolve().name == "step_0000400"
    assert (tmp_path / "last").resolve().name == "step_0000600"


def test_a_run_that_begins_anew_keeps_what_it_writes(tmp_path, network):
    for step in (800, 1000):
        save(tmp_path, network, step)
    save(tmp_path, network, 200)
    assert steps_in(tmp_path) == [200, 1000]
    assert (tmp_path / "last").resolve().name == "step_0000200"
    save(tmp_path, network, 400)
    assert steps_in(tmp_path) == [200, 400]


def test_a_step_may_be_written_twice(run, network):
    other = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    state = TrainingState(step=100, manifest_hash="other")
    save_checkpoint(run, CONFIG, state, model=other, training=other, is_best=False, keep=2)
    assert load_training(run / "last")[0] == state
    assert not any(tensor.any() for tensor in load_tensors(run / "last" / "model.safetensors").values())
    assert steps_in(run) == [100]


def contents(run: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in run.rglob("*") if file.is_file()}


@pytest.mark.parametrize("num_bytes", [0, 1000, 100_000])
def test_a_full_disk_leaves_the_checkpoint_before(run, network, num_bytes):
    before = contents(run)
    with no_file_above(num_bytes):
        message = refusal(lambda: save(run, network, 200, is_best=True))
    assert str(run / CHECKPOINTS / "step_0000200") in message
    assert "File too large" in message
    assert "those before are kept; make room" in message
    assert contents(run) == before
    assert (run / "last").resolve().name == (run / "best").resolve().name == "step_0000100"
    assert {path.name for path in run.iterdir()} == {CHECKPOINTS, "best", "last"}
    load_network(run)


def test_a_disk_that_is_full_at_the_last_file_leaves_the_checkpoint_before(run, network, monkeypatch):
    before = contents(run)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    assert "No space left on device" in refusal(lambda: save(run, network, 200))
    assert contents(run) == before
    assert steps_in(run) == [100]


def test_an_interrupt_leaves_nothing_unfinished(run, network, monkeypatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(run, network, 200)
    assert steps_in(run) == [100]


def test_what_a_machine_that_died_left_is_cleared_away(run, network):
    left = run / CHECKPOINTS / ".step_0000150.unfinished"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    save(run, network, 200)
    assert steps_in(run) == [100, 200]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", None, "damaged or missing"),
        ("model.safetensors", b"", "damaged or missing"),
        ("model.safetensors", b"text, no tensors", "damaged or missing"),
        ("model.safetensors", -1000, "damaged or missing"),
        ("training.safetensors", -1000, "damaged or missing"),
        ("state.json", None, "cannot be read"),
        ("state.json", -10, "cannot be read"),
        ("state.json", b"[]", "not a JSON object"),
        ("state.json", b'{"step": 3}', "manifest_hash is missing"),
        ("state.json", b'{"step": "3", "manifest_hash": "a"}', "step is '3', expected int"),
    ],
)
def test_a_damaged_checkpoint_is_told_by_its_file(run, name, content, words):
    path = (run / "last").resolve() / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    message = refusal(load_training, run / "last")
    assert message.startswith(f"{run / 'last' / name}: ")
    assert words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "not a JSON object"),
        (b"{}", "checkpoint of version None, this flm reads 1; update flm or train again"),
        (b'{"schema_version": 2, "model": {}}', "checkpoint of version 2, this flm reads 1"),
        (b'{"schema_version": 1, "loader": {}}', "model is missing"),
        (b'{"schema_version": 1, "model": {}}', "loader is missing"),
        (b'{"schema_version": 1, "loader": {}, "model": 3}', "is 3, expected the fields of ModelConfig"),
        (b'{"schema_version": 1, "loader": {}, "model": {"size": 3}}', "size is unknown"),
        (b'{"schema_version": 1, "loader": {}, "model": {"head": "x"}}', "head is 'x', expected one of"),
        (b'{"schema_version": 1, "loader": {}, "model": {"input_size_px": 33}}', "--model.input-size-px 33"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told_by_its_file(run, content, words):
    (run / "last" / "config.json").write_bytes(content)
    message = refusal(load_network, run / "last")
    assert message.startswith(f"{run / 'last' / 'config.json'}: ")
    assert words in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "heatmap"}, "head.coordinates.bias is (136,), expected absent"),
        ({"color": "grey"}, "is (24, 3, 3, 3), expected (24, 1, 3, 3)"),
        ({"backbone": "xception_compact"}, "expected"),
    ],
)
def test_weights_of_another_network_are_told(run, change, words):
    path = run / "last" / "config.json"
    fields = json.loads(path.read_text())
    fields["model"].update(change)
    path.write_text(json.dumps(fields))
    message = refusal(load_network, run / "last")
    assert message.startswith(
        f"{run / 'last' / 'model.safetensors'}: these are the weights of another network ("
    )
    assert words in message


def test_a_weight_that_is_left_over_or_absent_is_told(network, tmp_path):
    state = dict(network.state_dict())
    refused = refusal(load_state, network, {**state, "extra": torch.zeros(2)}, tmp_path)
    assert "(extra is (2,), expected absent)" in refused
    gone = state.pop("head.coordinates.bias")
    assert "(head.coordinates.bias is absent, expected (136,))" in refusal(
        load_state, network, state, tmp_path
    )
    load_state(network, {**state, "head.coordinates.bias": gone}, tmp_path)


def test_where_no_checkpoint_is_there_is_said_so(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        message = refusal(find_checkpoint, path)
        assert message.startswith(f"{path}: no checkpoint here; give a folder with model.safetensors")


def test_going_on_finds_the_last_one(run, network):
    save(run, network, 200)
    last = run.resolve() / CHECKPOINTS / "step_0000200"
    assert find_training(run, "auto") == last
    assert find_training(run.parent / "other", str(run)) == last
    assert find_training(run.parent / "other", str(run / "last")) == last
    assert find_training(run, str(run / "best")) == run.resolve() / CHECKPOINTS / "step_0000100"
    assert find_training(run, "none") is None


def test_a_run_that_never_saved_starts_anew(tmp_path):
    (tmp_path / "log.jsonl").write_text("{}\n")
    assert find_training(tmp_path, "auto") is None
    assert find_training(tmp_path / "none", "auto") is None


def test_a_run_that_lost_its_last_checkpoint_does_not_start_anew_by_itself(run):
    shutil.rmtree((run / "last").resolve())
    message = refusal(find_training, run, "auto")
    assert message.startswith(
        f"--resume auto: no whole checkpoint is left in {run} (the oldest: {run / 'last'}"
    )
    assert message.endswith("; put one back, or give --resume none to start anew")


@pytest.mark.parametrize("lost", ["folder", "link", "both"])
def test_a_run_that_lost_its_newest_goes_on_from_the_one_before(run, network, lost, capsys):
    save(run, network, 200)
    if lost != "link":
        shutil.rmtree((run / "last").resolve())
    if lost != "folder":
        (run / "last").unlink()
    expected = "step_0000200" if lost == "link" else "step_0000100"
    assert find_training(run, "auto") == run.resolve() / CHECKPOINTS / expected
    told = capsys.readouterr().err
    assert told.count("warning: ") == told.count("\n") == (lost == "folder")


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_damaged_one_is_passed_over_for_the_one_before(run, network, name, damage, capsys):
    save(run, network, 200)
    path = (run / "last").resolve() / name
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "altered":
            path.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
        case "gone":
            path.unlink()
    assert find_training(run, "auto") == run.resolve() / CHECKPOINTS / "step_0000100"
    (warning,) = capsys.readouterr().err.strip().splitlines()
    assert warning.startswith(f"warning: {run / 'last'}")
    assert warning.endswith(f"take another checkpoint: {run / CHECKPOINTS / 'step_0000100'} is taken")
    if (run / "last" / "training.safetensors").exists():
        assert "damaged" in refusal(find_training, run, str(run / "last"))


def test_checkpoints_of_another_run_are_not_gone_on_from(tmp_path, network):
    for step in (800, 1000, 200):
        save(tmp_path, network, step)
    shutil.rmtree((tmp_path / "last").resolve())
    message = refusal(find_training, tmp_path, "auto")
    assert "no whole checkpoint is left" in message


def test_weights_that_were_altered_are_not_used(run):
    path = (run / "best").resolve() / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    message = refusal(load_network, run)
    assert message.startswith(
        f"{run / 'best' / 'model.safetensors'}: damaged (its hash is not that in SHA256SUMS)"
    )
    (path.parent / "SHA256SUMS").unlink()
    load_network(run)


def test_a_path_to_go_on_from_that_has_no_checkpoint_is_refused(run, tmp_path):
    (run / "last" / "training.safetensors").unlink()
    for path in (tmp_path / "none", run, run / "last"):
        assert f"--resume {path}" in refusal(find_training, tmp_path, str(path))


def test_the_weights_file_of_the_start_is_not_needed_later(tmp_path, network):
    gone = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, weights=tmp_path / "gone.pth"))
    state = TrainingState(step=1, manifest_hash="abc")
    weights = network.state_dict()
    save_checkpoint(tmp_path, gone, state, model=weights, training={}, is_best=True, keep=1)
    assert load_network(tmp_path).config.weights == tmp_path / "gone.pth"
