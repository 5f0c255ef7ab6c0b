"""Batches from a worker to the training process, through shared memory that is used again and again.

Fresh shared memory costs almost as much as decoding into it: the system clears each page of it, once for the
worker and once more for the process that reads it. So the pictures of a batch lie in a slot, which is free
again when the last tensor that shares its memory is gone.
"""

import dataclasses
import itertools
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from flm.data.samples import Batch

_numbers = itertools.count()
_handovers: "weakref.WeakValueDictionary[int, Handover]" = weakref.WeakValueDictionary()
"""Those of this process by number: what comes out of a worker finds its own, also in the thread that pins."""


class Handover:
    """Slots of shared memory, as many for each worker as it has batches on their way, and one to write into.

    A worker that finds all of its slots in use, because the training process keeps batches, hands the batch
    over in memory of its own.

    Args:
        num_workers: that write; 0 if batches are made in the training process.
        slots: for each worker.
        shape: of the pictures of a batch, uint8.
    """

    def __init__(self, num_workers: int, slots: int, shape: tuple[int, ...]) -> None:
        self.number = next(_numbers)
        self.slots = slots
        self.pictures = torch.empty((num_workers * slots, *shape), dtype=torch.uint8).share_memory_()
        self.in_use = torch.zeros(num_workers * slots, dtype=torch.bool).share_memory_()
        self._slot: int | None = None
        _handovers[self.number] = self

    def make_room(self, shape: tuple[int, ...]) -> np.ndarray:
        """Memory for the pictures of the next batch: in a slot where one is free."""
        worker = get_worker_info()
        self._slot = None
        if worker is not None and shape == self.pictures.shape[1:]:
            first = worker.id * self.slots
            free = (~self.in_use[first : first + self.slots]).nonzero()
            if len(free):
                self._slot = first + int(free[0])
                return self.pictures[self._slot].numpy()
        return np.empty(shape, np.uint8)

    def pack(self, batch: Batch) -> "Batch | PackedBatch":
        """The batch that was made last, as it is cheap to send; as it is where there is no worker."""
        if get_worker_info() is None:
            return batch
        rest = {
            field.name: value.numpy() if isinstance(value, Tensor) else value
            for field in dataclasses.fields(batch)
            if (value := getattr(batch, field.name)) is not batch.crops_shard
        }
        if self._slot is None:
            return PackedBatch(self.number, None, batch.crops_shard, rest)
        self.in_use[self._slot] = True
        return PackedBatch(self.number, self._slot, None, rest)

    def pictures_of(self, slot: int) -> Tensor:
        """The pictures in a slot, which is free when nothing shares the tensor's memory any more."""
        pictures = self.pictures[slot].numpy()
        weakref.finalize(pictures, self.in_use.__setitem__, slot, False).atexit = False
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch on its way: what is small, arrays in the place of tensors, and where its pictures are."""

    handover: int
    slot: int | None
    pictures: Tensor | None
    """Where they are in no slot."""
    rest: dict[str, Any]

    def unpack(self) -> Batch:
        """The batch; once, in the process that made the handover."""
        slot = self.slot
        pictures = self.pictures if slot is None else _handovers[self.handover].pictures_of(slot)
        assert pictures is not None
        fields: dict[str, Any] = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self.rest.items()
        }
        return Batch(crops_shard=pictures, **fields)

    def pin_memory(self) -> Batch:
        """Called by the DataLoader's own thread where an accelerator is present."""
        return self.unpack().pin_memory()
