"""The hang guard names who is missing, also where the store is gone, and is silent otherwise."""

import os
import socket
import subprocess
import sys
import threading

import pytest
from conftest import REPOSITORY

from flm.bench.measure import free_port
from flm.errors import HANG_EXIT_CODE
from flm.process.heartbeat import Heartbeat, Sign, diagnosis


def sign(rank: int, *, beats: int = 5, doing: str = "waits", seen_s: float = 100.0) -> Sign:
    return Sign(rank=rank, host=f"host{rank}", beats=beats, doing=doing, ticks=1, seen_s=seen_s)


def test_the_one_that_is_behind_is_named_by_the_first_that_waits():
    signs = [sign(0, beats=3, doing="waits for samples"), sign(1), sign(2)]
    line, speaker = diagnosis(signs, 3, now_s=101.0, silent_s=5.0)
    assert line == "rank 0 on host0 (waits for samples) is behind"
    assert speaker == 1


def test_those_out_of_reach_are_named():
    signs = [sign(0), sign(1, seen_s=50.0, doing="computes a loss")]
    line, speaker = diagnosis(signs, 3, now_s=101.0, silent_s=5.0)
    assert line == "rank 2 (it gave no sign yet), rank 1 on host1 (computes a loss) cannot be reached"
    assert speaker == 0


def test_when_none_is_missing_it_says_so():
    line, speaker = diagnosis([sign(0), sign(1)], 2, now_s=101.0, silent_s=5.0)
    assert "none is behind" in line
    assert speaker == 0


def test_many_are_not_all_named():
    signs = [sign(rank, beats=1) for rank in range(1000)] + [sign(1000)]
    line, _ = diagnosis(signs, 1001, now_s=101.0, silent_s=5.0)
    assert len(line) < 1000
    assert "and 992 more" in line


def test_one_process_alone_is_not_watched():
    threads = threading.active_count()
    heartbeat = Heartbeat(rank=0, num_processes=1, timeout_s=1.0)
    with heartbeat.watching(end=lambda code: pytest.fail("it is not missing anybody")):
        assert threading.active_count() == threads


TIMEOUT_S = 5
"""A quarter of it without a sign of life counts as silence, which a busy machine alone must not be."""

PROGRAM = f"""
import json, os, signal, sys, time
from datetime import timedelta
import torch.distributed as distributed
from torch.distributed.distributed_c10d import _get_default_store
from flm.process.heartbeat import Heartbeat, _key

how, timeout_s = sys.argv[1], {TIMEOUT_S}
distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
rank = distributed.get_rank()
heartbeat = Heartbeat(rank=rank, num_processes=2, timeout_s=float(timeout_s))
heartbeat.is_started = how != "starts"
for _ in range(10 * rank):
    heartbeat.beat("does what the others need not")
with heartbeat.watching():
    for step in range(3):
        heartbeat.beat(f"step {{step}}")
        distributed.barrier()
    if how == "ends":
        time.sleep(0.5)
    elif how == "slow":
        for _ in range(timeout_s + 2):
            time.sleep(1)
            heartbeat.beat("goes on")
            distributed.barrier()
    elif rank == 1 and how == "behind":
        time.sleep(60)
    elif rank == 1 and how == "starts":
        time.sleep(timeout_s + 2)
        distributed.barrier()
    elif (rank, how) in ((1, "stopped"), (0, "store")):
        # Not before it has said how far it is.
        while json.loads(_get_default_store().get(_key(rank)))[2] != "step 2":
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        heartbeat.beat("waits in a collective")
        distributed.barrier()
distributed.destroy_process_group()
print("over")
"""


def run_two(how: str) -> list[subprocess.CompletedProcess[str]]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **meeting}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how],
            cwd=REPOSITORY,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        done = []
        # The one that cannot end comes last.
        for process in processes if how != "store" else reversed(processes):
            if done and how in ("stopped", "store"):
                process.kill()
            out, error = process.communicate(timeout=120)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
        return done
    finally:
        for process in processes:
            process.kill()


@pytest.mark.multiprocess
@pytest.mark.parametrize("how", ["ends", "slow", "starts"])
def test_it_leaves_a_run_alone_that_gets_on(how):
    for process in run_two(how):
        assert process.returncode == 0, process.stderr
        assert "over" in process.stdout
        assert "error" not in process.stderr


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("how", "what"), [("behind", "(step 2) is behind"), ("stopped", "(step 2) cannot be reached")]
)
def test_it_ends_a_run_and_names_the_one_that_is_missing(how, what):
    first, second = run_two(how)
    assert first.returncode == HANG_EXIT_CODE, first.stderr
    line = next(line for line in first.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith(
        f"error: no step for {TIMEOUT_S} s (--guards.timeout-s): rank 1 on {socket.gethostname()} {what}"
    )
    assert "waits in a collective" in line
    if how == "behind":
        # It ends too, and leaves the word to the other.
        assert second.returncode == HANG_EXIT_CODE
        assert "error: " not in second.stderr


@pytest.mark.multiprocess
def test_it_ends_a_run_whose_store_is_gone():
    """The first process keeps the store, and is stopped."""
    second, _ = run_two("store")
    assert second.returncode == HANG_EXIT_CODE, second.stderr
    assert second.stderr.count(f"error: no step for {TIMEOUT_S} s") == 1
    assert "the rendezvous store at 127.0.0.1:" in second.stderr
