"""Pictures through shared memory: never overwritten while somebody looks at them, and used again after."""

import dataclasses
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from flm.data.handover import Handover, PackedBatch
from flm.data.samples import Batch
from flm.landmarks import IBUG_68

SHAPE = (2, 4, 4, 3)


def batch_of(pictures, step: int) -> Batch:
    return Batch(
        crops_shard=torch.from_numpy(pictures).permute(0, 3, 1, 2),
        landmarks_shard=torch.full((2, 68, 2), float(step)),
        shard_to_crop=torch.eye(3).expand(2, 3, 3).clone(),
        valid=torch.tensor([True, False]),
        positions=torch.tensor([step, step + 1]),
        first_row=0,
        step=step,
        keys=("a", "b"),
        subsets=("", ""),
        scheme=IBUG_68,
    )


class Steps(Dataset):
    """Item t: pictures all of which are t, packed."""

    def __init__(self, handover: Handover, shape: tuple[int, ...] = SHAPE) -> None:
        self.handover = handover
        self.shape = shape

    def __getitem__(self, step: int):
        pictures = self.handover.make_room(self.shape)
        pictures[:] = step
        return self.handover.pack(batch_of(pictures, step))


def packed_batches(handover: Handover, steps: int, workers: int, **options):
    return iter(DataLoader(Steps(handover), None, sampler=range(steps), num_workers=workers, **options))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_batches_come_whole_and_slots_are_used_again(workers, context):
    handover = Handover(workers, 4, SHAPE)
    for step, packed in enumerate(
        packed_batches(handover, 14, workers, prefetch_factor=2, multiprocessing_context=context)
    ):
        assert packed.slot is not None
        batch = packed.unpack()
        assert batch.step == step
        assert (batch.crops_shard == step).all()
        assert batch.crops_shard.shape == (2, 3, 4, 4)
        assert batch.positions.tolist() == [step, step + 1]
        assert batch.valid.tolist() == [True, False]
        del batch
    assert not handover.in_use.any()


def test_what_is_kept_is_never_overwritten():
    handover = Handover(1, 2, SHAPE)
    kept = [packed.unpack() for packed in packed_batches(handover, 9, 1, prefetch_factor=2)]
    for step, batch in enumerate(kept):
        assert (batch.crops_shard == step).all()
    assert handover.in_use.all()


def test_a_view_keeps_its_slot():
    handover = Handover(1, 2, SHAPE)
    batches = packed_batches(handover, 2, 1, prefetch_factor=2)
    row = next(batches).unpack().crops_shard[1, 2]
    assert handover.in_use.sum() >= 1
    assert (row == 0).all()
    next(batches).unpack()
    del row
    assert not handover.in_use.any()


def test_without_a_worker_a_batch_stays_as_it_is():
    handover = Handover(0, 0, SHAPE)
    batch = Steps(handover)[3]
    assert isinstance(batch, Batch)
    assert (batch.crops_shard == 3).all()


def test_another_shape_is_sent_by_itself():
    handover = Handover(1, 2, SHAPE)
    (packed,) = DataLoader(Steps(handover, (2, 5, 5, 3)), None, sampler=range(1), num_workers=1)
    assert isinstance(packed, PackedBatch)
    assert packed.slot is None
    assert packed.unpack().crops_shard.shape == (2, 3, 5, 5)


def test_each_handover_finds_its_own():
    ones, twos = Handover(1, 2, SHAPE), Handover(1, 2, SHAPE)
    ones.pictures.fill_(1)
    twos.pictures.fill_(2)
    batch = batch_of(ones.pictures[0].numpy(), 0)
    rest = {
        field.name: getattr(batch, field.name)
        for field in dataclasses.fields(batch)
        if field.name != "crops_shard"
    }
    for handover, value in ((twos, 2), (ones, 1)):
        packed = pickle.loads(pickle.dumps(PackedBatch(handover.number, 1, None, rest)))
        assert (packed.unpack().crops_shard == value).all()
