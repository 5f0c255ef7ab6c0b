"""Sides of a benchmark that have processes of their own.

They are started before, and wait without work while others have their turn. So all sides take turns in one
run, none pays for its start, and none has the threads or the memory of another. Linux only.
"""

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import torch

from flm.bench.measure import free_port

T = TypeVar("T")

END_S = 20
"""What a process has time for to end its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a process did in one step."""

    images: int
    waited_s: float = 0.0
    """For data."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What all processes did in so many steps."""

    images_per_s: float
    waited_share: float
    """Of the first process's time."""


class Team(Generic[T]):
    """The processes of one side, which make steps when they are told to, on the processor if not told else.

    Args:
        side: what each of them does; it is handed `setting`.
        setting: what on.
        processes: how many, joined by gloo.
        threads: of each.
        on_gpu: on the first GPU.
        precision: of the arithmetic, as `accelerate launch --mixed_precision` has it.
    """

    def __init__(
        self,
        side: Callable[[T], Iterator[Step]],
        setting: T,
        *,
        processes: int = 1,
        threads: int,
        on_gpu: bool = False,
        precision: str = "bf16",
    ) -> None:
        port = free_port()
        if on_gpu:
            # A fork of a process that has looked for a GPU may not use it.
            context = multiprocessing.get_context("spawn")
        else:
            # Forked from a process that has imported all and has no threads, whose locks a fork would
            # wait for.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([side.__module__])
        self._pipes: list[Any] = []
        self._processes = []
        for rank in range(processes):
            mine, its = context.Pipe()
            environment = _environment(rank, processes, threads, port, precision)
            if not on_gpu:
                environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
            process = context.Process(target=_serve, args=(its, side, setting, threads, environment))
            process.start()
            its.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def __enter__(self) -> "Team[T]":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(END_S)
            process.terminate()
            process.join()

    def wait_until_ready(self) -> None:
        """Until all have made a first step.

        Raises:
            EOFError: one of them ended; it has told why.
        """
        for pipe in self._pipes:
            pipe.recv()

    def take_turn(self, steps: int) -> Turn:
        """Make so many steps, after one that is not timed."""
        for pipe in self._pipes:
            pipe.send(steps)
        made: list[tuple[list[Step], float]] = [pipe.recv() for pipe in self._pipes]
        images = sum(step.images for steps_of_one, _ in made for step in steps_of_one)
        first, elapsed_s = made[0]
        return Turn(
            images_per_s=images / max(elapsed_s for _, elapsed_s in made),
            waited_share=sum(step.waited_s for step in first) / elapsed_s,
        )


def _serve(
    pipe: Connection,
    side: Callable[[T], Iterator[Step]],
    setting: T,
    threads: int,
    environment: dict[str, str],
) -> None:
    """The work of one process, until the other end of the pipe is closed."""
    os.environ.update(environment)
    # Its own processes start as those of a training do, not as it was started itself.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(threads)
    steps = side(setting)
    next(steps)
    _give_back_memory()
    pipe.send("ready")
    while True:
        try:
            count = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        next(steps)
        wait_for_gpu()
        started_s = time.perf_counter()
        made = [next(steps) for _ in range(count)]
        wait_for_gpu()
        elapsed_s = time.perf_counter() - started_s
        _give_back_memory()
        pipe.send((made, elapsed_s))


def wait_for_gpu() -> None:
    """Until it has done what it was told to; at once where there is none."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _give_back_memory() -> None:
    """The others need it; the step before the next turn, which nobody times, takes it back."""
    ctypes.CDLL(None).malloc_trim(0)


def _environment(rank: int, processes: int, threads: int, port: int, precision: str) -> dict[str, str]:
    """What `accelerate launch` gives its processes with `launch/cpu.yaml`, or with `launch/one_gpu.yaml`."""
    return {
        "ACCELERATE_MIXED_PRECISION": precision,
        "OMP_NUM_THREADS": str(threads),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
