"""Shares of a step's time: on events whose shares are known, and on real runs."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from test_distributed import launch

from flm.errors import InputError
from flm.training import profiling
from flm.training.profiling import StepProfiler, parse_steps, shares_of, span

CPU, CUDA = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA


def event(name: str, start: float, end: float, thread: int = 1, device=CPU, is_user_annotation=False):
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=float(start), end=float(end)),
        thread=thread,
        device_type=device,
        is_user_annotation=is_user_annotation,
    )


def test_steps_are_read_and_mistakes_named():
    assert list(parse_steps("steps=3..5")) == [3, 4, 5]
    assert list(parse_steps("steps=1..1")) == [1]
    for text in ("3..5", "steps=5..3", "steps=0..2", "steps=a..b", "steps=3-5", ""):
        with pytest.raises(ValueError, match=r"--profile is .*, expected steps=FIRST\.\.LAST"):
            parse_steps(text)


def test_exposed_communication_is_told_from_that_beside_computation():
    events = [
        event("flm.step", 0, 1000),
        event("flm.data", 0, 100),
        event("flm.augmentation", 100, 150),
        event("flm.forward", 150, 400),
        event("flm.backward", 400, 900),
        event("flm.optimizer", 900, 980),
        event("aten::convolution", 150, 400),
        event("aten::convolution_backward", 400, 800),
        # Nested and in a thread of its own; 100 beside the backward pass, 100 that it is waited for.
        event("gloo:all_reduce", 700, 900, thread=2),
        event("aten::copy_", 820, 880, thread=2),
        event("aten::mul_", 900, 980),
    ]
    shares = shares_of(events, 5, 5)
    expected = {"data": 10, "augmentation": 5, "forward": 25, "backward": 40, "optimizer": 8}
    assert shares.share_pct == pytest.approx({**expected, "communication": 10, "rest": 2})
    assert shares.hidden_communication_pct == pytest.approx(10)
    assert shares.seconds_per_step == pytest.approx(1e-3)
    assert "communication 10.0 % (a further 10.0 % beside computation) · rest 2.0 %" in shares.describe()


def test_on_a_device_kernels_count_not_the_launches():
    events = [
        event("flm.step", 0, 100),
        event("flm.backward", 0, 100),
        event("flm.backward", 5, 100, device=CUDA, is_user_annotation=True),
        event("aten::convolution_backward", 0, 100),
        event("sgemm", 0, 60, device=CUDA),
        event("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 40, 90, thread=7, device=CUDA),
        event("nccl:all_reduce", 40, 90, thread=7, device=CUDA, is_user_annotation=True),
    ]
    shares = shares_of(events, 1, 1)
    assert shares.share_pct["communication"] == pytest.approx(30)
    assert shares.share_pct["backward"] == pytest.approx(70)
    assert shares.hidden_communication_pct == pytest.approx(20)


spans = st.lists(st.integers(1, 50), min_size=len(profiling.PARTS), max_size=len(profiling.PARTS))
intervals = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=6)


@given(lengths=spans, communication=intervals, computation=intervals, rest=st.integers(0, 20))
def test_shares_are_none_below_zero_and_add_up(lengths, communication, computation, rest):
    events, now = [], 0
    for part, length in zip(profiling.PARTS, lengths, strict=True):
        events.append(event(f"flm.{part}", now, now + length))
        now += length
    events.append(event("flm.step", 0, now + rest))
    events += [event("gloo:broadcast", start, start + long, thread=2) for start, long in communication]
    events += [event("aten::add", start, start + long) for start, long in computation]
    shares = shares_of(events, 1, 1)
    assert sum(shares.share_pct.values()) == pytest.approx(100)
    assert min(shares.share_pct.values()) >= -1e-9
    assert shares.hidden_communication_pct >= -1e-9


def test_a_span_is_nothing_while_nothing_records():
    before = span("forward")
    with torch.profiler.profile() as profile, span("forward"):
        torch.ones(2).sum()
    assert type(before).__name__ == "nullcontext"
    assert any(event.name == "flm.forward" for event in profile.events())


def test_a_long_trace_is_compressed(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "MOST_TRACE_BYTES", 100)
    lines = []
    profiler = StepProfiler("steps=2..2", tmp_path, steps=3, say=lines.append)
    for number in (1, 2, 3):
        with profiler.step(number), span("forward"):
            torch.ones(10).sum()
    assert not (tmp_path / "trace.json").exists()
    assert json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    assert len(lines) == 1
    assert "trace.json.gz" in lines[0]


def test_steps_after_the_end_are_a_mistake_and_those_before_a_resumed_start_are_left_out(tmp_path):
    with pytest.raises(InputError, match=r"--profile steps=9\.\.12: the run has 8 steps"):
        StepProfiler("steps=9..12", tmp_path, steps=8, say=print)
    lines = []
    profiler = StepProfiler("steps=2..20", tmp_path, steps=8, say=lines.append)
    for number in range(6, 9):
        with profiler.step(number), span("backward"):
            torch.ones(10).sum()
    shares = json.loads((tmp_path / "shares.json").read_text())
    assert (shares["first_step"], shares["last_step"]) == (6, 8)
    assert lines[0].startswith("profile of steps 6 to 8, ")


def launched(data: Path, run: Path, processes: int, *more: str) -> tuple[str, dict]:
    fields = [
        "--steps",
        "4",
        "--batch-size",
        "8",
        "--model.input-size-px",
        "64",
        "--tracking.tracker",
        "none",
    ]
    command = ["-m", "flm.train", "quickstart", "--data", data, "--out", run, *fields, *more]
    done = launch(*command, processes=processes)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((run / "profile" / "shares.json").read_text())


@pytest.mark.multiprocess
def test_two_processes_are_profiled_in_the_steps_that_were_asked_for(make_shards, tmp_path):
    make_shards(tmp_path / "data", {"train": 24, "validation": 4})
    run = tmp_path / "run"
    told, shares = launched(tmp_path / "data", run, 2, "--profile", "steps=2..3")
    assert told.count("profile of steps 2 to 3, ") == 1
    assert (shares["first_step"], shares["last_step"]) == (2, 3)
    share = shares["share_pct"]
    assert sum(share.values()) == pytest.approx(100)
    assert all(share[part] > 0 for part in ("augmentation", "forward", "backward", "optimizer"))
    # The gradients of every step go from one process to the other.
    assert share["communication"] + shares["hidden_communication_pct"] > 0
    assert share["rest"] < 50  # few; a busy machine may stop a process anywhere
    trace = json.loads((run / "profile" / "trace.json").read_text())
    names = {entry["name"] for entry in trace["traceEvents"]}
    assert {"flm.data", "flm.forward", "gloo:all_reduce"} <= names


def test_one_process_does_not_communicate(make_shards, tmp_path):
    from tiny_runs import tiny

    from flm.train import train

    make_shards(tmp_path / "data", {"train": 24, "validation": 4})
    AcceleratorState._reset_state(reset_partial_state=True)
    run = train(
        tiny(tmp_path / "data", tmp_path / "run", steps=2, profile="steps=1..9", accumulation_steps=2)
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    shares = json.loads((run / "profile" / "shares.json").read_text())
    assert (shares["first_step"], shares["last_step"]) == (1, 2)
    assert shares["share_pct"]["communication"] == 0
    assert shares["hidden_communication_pct"] == 0
    assert shares["share_pct"]["forward"] > 5
