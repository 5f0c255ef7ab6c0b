"""How long the steps of a training took, and how much of it was waiting."""

import contextlib
import resource
import time
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class Clock:
    """Measures the steps between two lines of the log.

    Args:
        device: whose memory is told.
        step: where this start of the run begins.
    """

    def __init__(self, device: torch.device, step: int) -> None:
        self.device = device
        self._begin(step)

    def _begin(self, step: int) -> None:
        self.first_step = step
        self.started_s = time.perf_counter()
        self.waited_s = 0.0
        self.paused_s = 0.0

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waiting."""
        while True:
            asked_s = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - asked_s
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is no training step, such as an evaluation."""
        began_s = time.perf_counter()
        yield
        self.paused_s += time.perf_counter() - began_s

    def read(self, step: int, *, steps: int, batch_size: int) -> dict[str, float]:
        """The timed fields of `flm.runlog.log.TrainNumbers` for the steps since the last reading."""
        elapsed_s = time.perf_counter() - self.started_s - self.paused_s
        seconds_per_step = elapsed_s / max(1, step - self.first_step)
        numbers = {
            "images_per_s": batch_size / seconds_per_step,
            "data_wait_pct": 100 * self.waited_s / elapsed_s,
            "memory_gib": self._memory_gib(),
            "eta_s": (steps - step) * seconds_per_step,
        }
        self._begin(step)
        return numbers

    def _memory_gib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
