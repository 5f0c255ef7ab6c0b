"""Conversion by several processes that a launcher started, on one machine or many with a common disk."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from flm.errors import InputError, OneProcessInputError

T = TypeVar("T")

LONGEST_CONVERSION = datetime.timedelta(days=7)
"""How long the processes wait for the slowest one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """The processes that convert together, under `torchrun` or `accelerate launch`; else this one alone."""

    process: int
    num_processes: int

    @classmethod
    def assembled(cls) -> "Crew":
        """The crew that the launcher's environment names, its processes joined."""
        crew = cls.of_environment()
        if crew.num_processes > 1:
            import torch.distributed

            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group("gloo", timeout=LONGEST_CONVERSION)
        return crew

    @classmethod
    def of_environment(cls) -> "Crew":
        """The crew that a launcher's environment names, not joined."""
        return cls(
            process=int(os.environ.get("RANK", "0")), num_processes=int(os.environ.get("WORLD_SIZE", "1"))
        )

    @property
    def is_first(self) -> bool:
        """The first process prepares the folder, publishes it and speaks."""
        return self.process == 0

    @contextlib.contextmanager
    def own_share(self) -> Iterator[None]:
        """A mistake in the block is one that this process tells, since the others have other shares."""
        try:
            yield
        except InputError as error:
            raise OneProcessInputError(str(error)) from error

    def gathered(self, mine: T) -> list[T]:
        """What each process has, in their order, for all of them."""
        if self.num_processes == 1:
            return [mine]
        import torch.distributed

        found: list[T] = [mine] * self.num_processes
        torch.distributed.all_gather_object(found, mine)
        return found

    def wait_for_all(self) -> None:
        """Go on when every process is here."""
        if self.num_processes > 1:
            import torch.distributed

            torch.distributed.barrier()
