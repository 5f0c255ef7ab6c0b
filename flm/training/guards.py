"""What keeps a run from spoiling what it has: bad steps, a process that is missing, too little memory."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flm.errors import InputError, OneProcessInputError, ProcessLostError, first_line, some_of
from flm.process.heartbeat import START_S, Heartbeat
from flm.process.signals import Stop

T = TypeVar("T")

MOST_KEYS = 64
"""How many samples of bad steps a line names."""

LEAST_SCALE = 1.0
"""In fp16 a gradient that is not finite says only that the loss was scaled too much, until here."""

COLLECTIVE_FACTOR = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """When a run gives up."""

    max_bad_steps: int = 10
    """Steps in a row whose loss or gradient is not finite, after which the run stops. Each is skipped, its
    samples are told. On a GPU the run may stop as many steps late."""
    timeout_s: float = 600.0
    """A run of several processes ends, with the name of the one that is missing, when no step and no batch of
    an evaluation ended for as long. The first step has two minutes at least."""

    def __post_init__(self) -> None:
        if self.max_bad_steps < 1:
            raise ValueError(f"--guards.max-bad-steps is {self.max_bad_steps}, must be at least 1")
        if not 1 <= self.timeout_s < math.inf:
            raise ValueError(f"--guards.timeout-s is {self.timeout_s}, must be a number of at least 1")

    @property
    def collective_timeout_s(self) -> float:
        """How long a collective waits: longer than the hang guard, so that this one speaks first."""
        return COLLECTIVE_FACTOR * max(self.timeout_s, START_S)


class BadSteps:
    """Skips the updates of steps whose loss or gradient is not finite, on the device, and counts them.

    The device decides, so that it is never waited for: the fused optimizer leaves weights and moments as they
    are where its `found_inf` is 1, as a gradient scaler has it do; batch statistics are put back; the moving
    average moves by 0. All processes decide alike, since they see the same norm of the gradient that they
    averaged, and a loss that is not finite makes the gradient so. The host looks every few steps.

    Args:
        most_in_a_row: the run stops then.
        accelerator: of the run.
    """

    def __init__(self, most_in_a_row: int, accelerator: Accelerator) -> None:
        self.most_in_a_row = most_in_a_row
        self.accelerator = accelerator
        self.num_in_a_row = 0
        self.num_skipped = 0
        self._unseen: list[tuple[int, Sequence[str], Tensor]] = []
        self._buffers: list[Tensor] = []

    def begin(self, network: nn.Module) -> None:
        """Before the forward pass, which changes the batch statistics."""
        self._buffers = [buffer.clone() for buffer in network.buffers()]

    def undo(self, network: nn.Module) -> None:
        """Put the batch statistics back as `begin` saw them."""
        for buffer, before in zip(network.buffers(), self._buffers, strict=True):
            buffer.copy_(before)

    def judge(
        self, norm: Float[Tensor, ""], network: nn.Module, optimizer: AcceleratedOptimizer
    ) -> Bool[Tensor, ""]:
        """Before the update: whether the step is good, on the device; if not, nothing changes.

        Args:
            norm: of the gradient over all processes, unscaled.
            network: as `begin` saw it.
            optimizer: a fused one.
        """
        good = norm.isfinite()
        if self.accelerator.scaler is None:
            optimizer.optimizer.found_inf = (~good).float()  # pyright: ignore[reportAttributeAccessIssue]
        for buffer, before in zip(network.buffers(), self._buffers, strict=True):
            buffer.copy_(torch.where(good, buffer, before))
        return good

    def end(self, step: int, keys: Sequence[str], good: Bool[Tensor, ""]) -> None:
        """After the update.

        Args:
            step: as the log counts it; 1 is the first.
            keys: this process's samples.
            good: what `judge` gave.
        """
        self._unseen.append((step, keys, good))

    def look(self, warn: Callable[[int, str], object], *, now: bool) -> None:
        """Tell what the steps since the last look were; called by all processes after each step.

        Args:
            warn: takes a step and what is wrong with it.
            now: although that waits for the device, as a line of the log does anyway.

        Raises:
            InputError: too many steps in a row were bad.
        """
        is_free = self.accelerator.device.type == "cpu"
        if not self._unseen or not (now or is_free or len(self._unseen) >= self.most_in_a_row):
            return
        unseen, self._unseen = self._unseen, []
        verdicts = torch.stack([good for _, _, good in unseen]).tolist()
        if not all(verdicts) and self._only_scales_down():
            return
        for (step, keys, _), good in zip(unseen, verdicts, strict=True):
            self.num_in_a_row = 0 if good else self.num_in_a_row + 1
            if not good:
                self.num_skipped += 1
                # Every process has the same verdicts, so all of them gather.
                samples = some_of(gather_object(list(keys)), MOST_KEYS)
                warn(
                    step,
                    f"loss or gradient is not finite, so the step changed nothing ({self.num_in_a_row} in a "
                    f"row, {self.num_skipped} since the start); its samples: {samples}",
                )
                if self.num_in_a_row >= self.most_in_a_row:
                    raise InputError(
                        f"step {step}: {self.num_in_a_row} steps in a row had a loss or gradient that is not "
                        f"finite, --guards.max-bad-steps is {self.most_in_a_row}; look at the samples named "
                        "above, lower --optimizer.learning-rate, or train in bf16 or float32 instead of fp16"
                    )

    def _only_scales_down(self) -> bool:
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() > LEAST_SCALE


def with_visible_faults(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The same loss, whose gradient is not finite if it is not, so that all processes see it in the norm."""
    return loss * torch.where(loss.isfinite(), 1.0, math.nan)


class Guards:
    """All that watches over a run. Every process calls each of its methods at the same place.

    Args:
        config: when they give up.
        accelerator: of the run.
    """

    def __init__(self, config: GuardConfig, accelerator: Accelerator) -> None:
        self.collective_timeout_s = config.collective_timeout_s
        self.bad_steps = BadSteps(config.max_bad_steps, accelerator)
        self.stop = Stop()
        self.heartbeat = Heartbeat(
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
            timeout_s=config.timeout_s,
        )

    def listening(self) -> AbstractContextManager[None]:
        """Take the signals that ask for an end, from the start to where the log is closed."""
        return self.stop.listening(self.collective_timeout_s)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch over the other processes.

        Raises:
            ProcessLostError: another process ended or cannot be reached.
        """
        try:
            with self.heartbeat.watching():
                yield
        except RuntimeError as error:
            if not _is_of_other_process(error):
                raise
            if self.stop.signal is not None:
                # They would have stopped together: it is the launcher that ends those that are left.
                raise ProcessLostError from error
            raise ProcessLostError(
                f"another process ended or cannot be reached ({first_line(error)}); the same command goes on "
                "from the last checkpoint"
            ) from error

    def batches(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches, until the processes agree to stop.

        Raises:
            PreemptedError: on all processes alike.
        """
        return self.stop.until_agreed(self._beating(batches))

    def _beating(self, batches: Iterator[T]) -> Iterator[T]:
        while True:
            self.heartbeat.beat("waits for samples")
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.heartbeat.beat("waits for the other processes")
            yield batch
            self.heartbeat.is_started = True


def _is_of_other_process(error: RuntimeError) -> bool:
    # Gloo raises nothing more special.
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Look for numbers that are not finite, such as those of a checkpoint before it is written.

    Raises:
        InputError: there is one.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.linalg.vector_norm(tensor, math.inf).isfinite():
            raise InputError(
                f"{where}: {name} holds a number that is not finite, so it is not saved; lower "
                "--optimizer.learning-rate, with --checkpoint.may-differ optimizer.learning-rate,"
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and should_reduce_batch_size(error)


@contextlib.contextmanager
def telling_memory(what: str) -> Iterator[None]:
    """Tell too little memory in one line.

    Args:
        what: was too much, and what to do.

    Raises:
        OneProcessInputError: there was too little.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OneProcessInputError(f"out of memory with {what}") from error


def rows_that_fit(attempt: Callable[[int], object], rows: int) -> int:
    """The largest divisor of a number of rows, of those that halving it leads to, that fits into memory.

    As Accelerate's `find_executable_batch_size`, but by halves, so that the parts of a batch stay equal.

    Args:
        attempt: computes with so many rows at a time.
        rows: tried first.

    Raises:
        OneProcessInputError: not even one row fits.
    """
    size = rows
    while True:
        try:
            attempt(size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OneProcessInputError(
                    "--auto-batch-size: out of memory with one face at a time; give a smaller "
                    "--model.input-size-px or --model.backbone"
                ) from error
        else:
            return size
        # Outside of the except clause, whose error would keep the tensors alive.
        clear_device_cache(garbage_collection=True)
        size = max(divisor for divisor in range(1, size // 2 + 1) if rows % divisor == 0)
