"""Written beside the training, one at a time; a full disk or a kill costs none that was there."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from test_files import no_file_above

import flm.training.checkpoint_writer
from flm.checkpoint import (
    CHECKPOINTS,
    MODEL_NAME,
    STATE_NAME,
    CheckpointConfig,
    TrainingState,
    check_whole,
    folder_of_step,
    hidden,
    load_tensors,
    load_training,
    read_json,
)
from flm.errors import InputError
from flm.training.checkpoint_writer import CheckpointWriter, begin_at, save_checkpoint
from flm.training.resume import find_training

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}


def state_at(step: int, best: float | None = None) -> TrainingState:
    return TrainingState(step=step, manifest_hash="abc", best_score=best, best_step=best and step)


def save_now(run: Path, step: int, *, keep: int = 2, is_best: bool = False, value: float = 0.0) -> Path:
    weights = {"a": torch.full((100, 100), value)}
    return save_checkpoint(
        run, {}, state_at(step), model=weights, training=weights, is_best=is_best, keep=keep
    )


class SlowDisk:
    """Holds each write back until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = threading.Semaphore(0)
        write = flm.training.checkpoint_writer.save_checkpoint

        def slow(*arguments, **options):
            assert self.free.acquire(timeout=60)
            return write(*arguments, **options)

        monkeypatch.setattr(flm.training.checkpoint_writer, "save_checkpoint", slow)


@pytest.fixture
def slow_disk(monkeypatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    # No thread is left waiting where a test failed.
    disk.free.release(9)


def writer_of(run: Path, **changes) -> CheckpointWriter:
    return CheckpointWriter(run, CheckpointConfig(**changes))


def save(writer: CheckpointWriter, step: int, weights=WEIGHTS, *, best: float | None = None) -> None:
    writer.save({}, state_at(step, best), model=weights, training=weights, is_best=best is not None)


def fail_to_save(writer: CheckpointWriter, step: int, *, best: float | None = None) -> None:
    """As on a full disk; the writer has not yet told it."""
    with no_file_above(0):
        save(writer, step, best=best)
        assert writer._writing is not None
        assert writer._writing.exception(60) is not None


def test_training_goes_on_while_what_it_had_is_written(tmp_path, slow_disk):
    writer = writer_of(tmp_path)
    tensors = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).t()
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    save(writer, 1, tensors)
    for tensor in tensors.values():
        tensor.zero_()
    assert not (tmp_path / "last").exists()
    assert writer.step is None
    slow_disk.free.release()
    writer.wait()
    assert writer.step == 1
    for found in load_training(tmp_path / "last")[1:]:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_each_checkpoint_has_the_values_of_its_own_step(tmp_path):
    with writer_of(tmp_path, keep=5) as writer:
        for step in range(1, 5):
            save(writer, step, {"a": torch.full((50, 50), float(step))})
    for step in range(1, 5):
        assert load_tensors(folder_of_step(tmp_path, step) / MODEL_NAME)["a"].unique().tolist() == [step]


def test_the_next_one_waits_for_the_one_before(tmp_path, slow_disk):
    writer = writer_of(tmp_path)
    save(writer, 1)
    threading.Timer(0.2, slow_disk.free.release).start()
    save(writer, 2)
    assert (tmp_path / "last").resolve().name == "step_0000001"
    slow_disk.free.release()
    writer.wait()
    assert (tmp_path / "last").resolve().name == "step_0000002"


def test_the_end_waits(tmp_path, slow_disk):
    with writer_of(tmp_path) as writer:
        save(writer, 1)
        threading.Timer(0.2, slow_disk.free.release).start()
    check_whole(tmp_path / "last")


def test_the_score_of_the_best_is_that_of_one_that_is_there(tmp_path):
    writer = writer_of(tmp_path, on_error="continue")
    save(writer, 1, best=4.0)
    writer.wait()
    fail_to_save(writer, 2, best=3.0)
    writer.wait()
    assert writer.best == (4.0, 1)
    assert (tmp_path / "best").resolve().name == "step_0000001"
    save(writer, 3, best=3.5)
    writer.wait()
    assert writer.best == (3.5, 3)
    assert (tmp_path / "best").resolve().name == "step_0000003"


def test_a_failure_stops_the_run_at_the_next_step(tmp_path):
    writer = writer_of(tmp_path)
    save(writer, 1)
    writer.wait()
    fail_to_save(writer, 2)
    with pytest.raises(
        InputError, match=r"step_0000002: .*too large.*make room and go on with --resume auto"
    ):
        writer.is_due(3)
    check_whole(tmp_path / "last")
    # It is told once.
    writer.wait()


def test_a_failure_is_a_warning_where_the_run_shall_go_on(tmp_path, capsys):
    with writer_of(tmp_path, on_error="continue") as writer:
        fail_to_save(writer, 1)
        writer.wait()
        warning = capsys.readouterr().err
        assert warning.startswith(
            f"warning: {folder_of_step(tmp_path, 1)}: the checkpoint could not be written"
        )
        assert warning.endswith("those before are kept; make room, the run goes on without it\n")
        assert warning.count("\n") == 1
        assert writer.step is None
        save(writer, 2)
    check_whole(tmp_path / "last")


def test_a_failure_does_not_hide_the_mistake_that_ended_the_run(tmp_path, capsys):
    writer = writer_of(tmp_path)
    fail_to_save(writer, 1)
    with pytest.raises(InputError, match="bad shard"), writer:
        raise InputError("bad shard")
    assert capsys.readouterr().err.startswith("warning: ")


def test_a_failure_at_the_end_is_raised(tmp_path):
    writer = writer_of(tmp_path)
    fail_to_save(writer, 1)
    with pytest.raises(InputError, match="could not be written"), writer:
        pass


def test_steps_and_minutes_say_when(tmp_path, monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    assert not any(writer_of(tmp_path).is_due(step) for step in range(1, 100))
    by_steps = writer_of(tmp_path, every_steps=3)
    assert [step for step in range(1, 10) if by_steps.is_due(step)] == [3, 6, 9]
    by_minutes = writer_of(tmp_path, every_minutes=0.5)
    due = []
    for step in range(1, 10):
        now_s += 12.0
        if by_minutes.is_due(step):
            due.append(step)
            save(by_minutes, step)
            by_minutes.wait()
    assert due == [3, 6, 9]


@pytest.mark.parametrize(
    ("field", "value"), [("keep", 0), ("every_steps", 0), ("every_minutes", 0.0), ("every_minutes", -1.0)]
)
def test_bad_settings_name_their_flag(field, value):
    flag = "--checkpoint." + field.replace("_", "-")
    with pytest.raises(ValueError, match=rf"^{flag} is {value}, must be a number above 0"):
        CheckpointConfig(**{field: value})


def test_the_hashes_are_those_that_sha256sum_makes(tmp_path):
    folder = save_now(tmp_path, 1)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(": OK") == len(list(folder.iterdir())) - 1
    check_whole(folder)


def test_one_that_is_replaced_is_found_where_the_new_one_is_not_in_its_place(tmp_path):
    folder = save_now(tmp_path, 1, keep=1)
    # As a machine leaves it that dies between the two renames.
    folder.rename(hidden(folder))
    assert find_training(tmp_path, "auto") == hidden(folder)
    with no_file_above(100), pytest.raises(InputError):
        save_now(tmp_path, 2)
    assert find_training(tmp_path, "auto") == hidden(folder)
    save_now(tmp_path, 2, keep=1)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step_0000002"]


@pytest.mark.parametrize("step", [1, 2])
def test_one_that_a_kill_left_replaced_is_in_nobodys_way(tmp_path, step):
    folder = save_now(tmp_path, 1, keep=1)
    # As a kill leaves it after the new one is in its place.
    shutil.copytree(folder, hidden(folder))
    save_now(tmp_path, step, keep=1)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == [folder_of_step(tmp_path, step).name]


def test_a_beginning_that_cannot_be_noted_is_told_in_one_line(tmp_path):
    save_now(tmp_path, 1)
    # As some copies of a run have it.
    (tmp_path / "last").unlink()
    (tmp_path / "last").mkdir()
    with pytest.raises(InputError, match=r"last: cannot be written \(Is a directory\)") as caught:
        begin_at(tmp_path, None)
    assert "\n" not in str(caught.value)


def test_a_run_begun_anew_does_not_go_on_from_the_older_one(tmp_path):
    for step in (100, 200):
        save_now(tmp_path, step, is_best=step == 100)
    begin_at(tmp_path, None)
    assert find_training(tmp_path, "auto") is None
    assert find_training(tmp_path, "none", is_restart=True) is None
    assert (tmp_path / "best").resolve().name == "step_0000100"
    begin_at(tmp_path, folder_of_step(tmp_path, 100).resolve())
    assert find_training(tmp_path, "auto") == folder_of_step(tmp_path, 100).resolve()
    begin_at(tmp_path, tmp_path / "elsewhere" / "step_0000100")
    assert find_training(tmp_path, "auto") is None
    begin_at(tmp_path / "new", None)
    assert not (tmp_path / "new").exists()


def test_what_a_restart_goes_on_from_is_what_was_reached(tmp_path):
    other = save_now(tmp_path / "other", 50)
    assert find_training(tmp_path / "run", "none", is_restart=True) is None
    assert find_training(tmp_path / "run", str(other), is_restart=True) == other.resolve()
    reached = save_now(tmp_path / "run", 60)
    assert find_training(tmp_path / "run", "none", is_restart=True) == reached.resolve()
    assert find_training(tmp_path / "run", str(other), is_restart=True) == reached.resolve()
    assert find_training(tmp_path / "run", str(other)) == other.resolve()
    assert find_training(tmp_path / "run", "none") is None


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Runs whose process was killed at one instant each of writing the checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run(
        [sys.executable, "tests/programs/killed_saves.py", folder], cwd=REPOSITORY, check=True, timeout=300
    )
    return folder


def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(killed):
    steps = []
    runs = sorted(killed.iterdir(), key=lambda run: int(run.name))
    for run in runs:
        found = find_training(run, "auto")
        assert found is not None
        state, model, _ = load_training(found)
        assert model["a"].unique().tolist() == [state.step]
        assert read_json(found / STATE_NAME)["step"] == state.step
        steps.append(state.step)
        save_now(run, 3, value=3.0)
        assert not list((run / CHECKPOINTS).glob(".*"))
        assert (run / "last").resolve().name == "step_0000003"
    # From some instant on it is the new one.
    assert steps == sorted(steps)
    assert steps[0] == 1
    assert steps[-1] == 2
    assert len(steps) >= 9
