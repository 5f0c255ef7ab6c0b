"""Two machines: network namespaces joined by a cable that can be pulled out, with real TCP between them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from flm.errors import HANG_EXIT_CODE

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

DEADLINE_S = 240
STEPS = 16
GUARD_S = 20
LATE_S = 30
"""How late a process of a busy machine may see that its time is over."""
LAUNCHER_S = 60
"""What the launcher may need then, to see that its process ended, and to end itself."""

MESSAGE = f"error: no step for {GUARD_S} s (--guards.timeout-s)"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


class Machines:
    """Two network namespaces and the processes that were started in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [f"flm-{os.getpid()}-{rank}" for rank in (0, 1)]
        self.cable = [f"flm{os.getpid() % 10**7}x{rank}" for rank in (0, 1)]
        self.addresses = ["10.77.0.1", "10.77.0.2"]
        self.started: list[subprocess.Popen[bytes]] = []

    def set_up(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
        near, far = self.cable
        ip(
            "link",
            "add",
            near,
            "netns",
            self.names[0],
            "type",
            "veth",
            "peer",
            "name",
            far,
            "netns",
            self.names[1],
        )
        for name, device, address in zip(self.names, self.cable, self.addresses, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", device)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", device, "up")

    def tear_down(self) -> None:
        for name in self.names:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, timeout=20)
            for process in inside.stdout.split():
                os.kill(int(process), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)
        for process in self.started:
            process.wait(timeout=20)

    def plug(self, state: str) -> None:
        """`down` is a cable pulled out, `up` one put back."""
        ip("-n", self.names[1], "link", "set", self.cable[1], state)

    def launch(self, *training: str | Path, restarts: int = 0) -> list[subprocess.Popen[bytes]]:
        """The same command on both, each with its own rank; what they tell goes to log-0 and log-1."""
        launchers = []
        for rank, name in enumerate(self.names):
            command = ["ip", "netns", "exec", name, *ACCELERATE, "--config_file", "launch/multi_node.yaml"]
            command += ["--num_processes", "2", "--machine_rank", str(rank)]
            command += ["--main_process_ip", self.addresses[0], "--max_restarts", str(restarts)]
            with self.log(rank).open("wb") as log:
                launchers.append(
                    subprocess.Popen(
                        [*command, "-m", "flm.train", *map(str, training)],
                        cwd=REPOSITORY,
                        env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": self.cable[rank]},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        self.started += launchers
        return launchers

    def log(self, rank: int) -> Path:
        return self.folder / f"log-{rank}"

    def told(self) -> str:
        return "\n".join(self.log(rank).read_text(errors="replace") for rank in (0, 1))


ACCELERATE = (str(Path(sys.executable).with_name("accelerate")), "launch")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}


@pytest.fixture(scope="module")
def machines(tmp_path_factory) -> Iterator[Machines]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two network namespaces need root and `ip` (Debian's package iproute2)")
    made = Machines(tmp_path_factory.mktemp("machines"))
    try:
        try:
            made.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine allows no network namespaces: {error.stderr.strip()}")
        yield made
    finally:
        made.tear_down()


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 30, "validation": 7, "test": 3}, shard_size=8)
    return folder


def training(data: Path, out: Path) -> list[str | Path]:
    """A tiny run with a checkpoint every two steps."""
    fields = f"--steps {STEPS} --batch-size 8 --model.input-size-px 64 --tracking.tracker none"
    fields += f" --eval-every-steps {STEPS} --checkpoint.every-steps 2 --guards.timeout-s {GUARD_S}"
    return ["quickstart", "--data", data, "--out", out, *fields.split()]


@pytest.fixture(scope="module")
def one_machine(data, tmp_path_factory) -> Path:
    """The same run as two processes of one machine."""
    run = tmp_path_factory.mktemp("runs") / "one"
    command = [*ACCELERATE, "--config_file", "launch/cpu.yaml", "--main_process_port", "0", "-m", "flm.train"]
    command += map(str, training(data, run))
    done = subprocess.run(
        command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    return run


def last_weights(run: Path) -> tuple[bytes, bytes]:
    return tuple((run / "last" / name).read_bytes() for name in ("model.safetensors", "training.safetensors"))


def test_two_machines_train_as_one(machines, one_machine, data, tmp_path):
    launchers = machines.launch(*training(data, tmp_path / "run"))
    codes = [launcher.wait(timeout=DEADLINE_S) for launcher in launchers]
    assert codes == [0, 0], machines.told()
    assert "2 processes on cpu" in machines.log(0).read_text()
    assert last_weights(tmp_path / "run") == last_weights(one_machine)


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_for_checkpoint(run: Path, launchers: list[subprocess.Popen[bytes]]) -> None:
    ended = [None, None]
    wait_until(lambda: (run / "last").exists() or [launcher.poll() for launcher in launchers] != ended)
    assert [launcher.poll() for launcher in launchers] == ended


def test_a_cut_cable_ends_both_in_time_and_the_run_goes_on(machines, one_machine, data, tmp_path):
    run = tmp_path / "run"
    launchers = machines.launch(*training(data, run))
    wait_for_checkpoint(run, launchers)
    machines.plug("down")
    try:
        cut_s = time.monotonic()
        wait_until(lambda: all(MESSAGE in machines.log(rank).read_text() for rank in (0, 1)))
        told_s = time.monotonic() - cut_s
        codes = [launcher.wait(timeout=DEADLINE_S) for launcher in launchers]
        ended_s = time.monotonic() - cut_s
    finally:
        machines.plug("up")
    print(f"--guards.timeout-s {GUARD_S}: told after {told_s:.1f} s, launchers ended after {ended_s:.1f} s")
    assert codes == [HANG_EXIT_CODE, HANG_EXIT_CODE], machines.told()
    assert GUARD_S * 0.5 < told_s < GUARD_S + LATE_S
    assert ended_s < told_s + LAUNCHER_S
    assert int((run / "last").resolve().name.removeprefix("step_")) < STEPS

    launchers = machines.launch(*training(data, run))
    codes = [launcher.wait(timeout=DEADLINE_S) for launcher in launchers]
    assert codes == [0, 0], machines.told()
    assert f"to {STEPS} · 2 processes" in machines.log(0).read_text()
    assert "steps 0 to" not in machines.log(0).read_text()
    assert last_weights(run) == last_weights(one_machine)


def test_launchers_that_may_restart_outlive_a_cut_cable(machines, one_machine, data, tmp_path):
    run = tmp_path / "run"
    launchers = machines.launch(*training(data, run), restarts=3)
    wait_for_checkpoint(run, launchers)
    machines.plug("down")
    try:
        wait_until(lambda: all(MESSAGE in machines.log(rank).read_text() for rank in (0, 1)))
    finally:
        machines.plug("up")
    codes = [launcher.wait(timeout=DEADLINE_S) for launcher in launchers]
    assert codes == [0, 0], machines.told()
    starts = re.findall(rf"steps (\d+) to {STEPS} · 2 processes", machines.log(0).read_text())
    assert starts[0] == "0"
    assert int(starts[-1]) > 0
    assert last_weights(run) == last_weights(one_machine)
