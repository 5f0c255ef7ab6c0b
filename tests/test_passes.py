"""One look or two: the second is at the box of what the first one found."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from conftest import draw_face
from torch import Tensor, nn

from flm.data.batches import CropShape
from flm.data.crops import crop_plainly
from flm.data.samples import Batch
from flm.evaluation.passes import cut_around, find_landmarks
from flm.faces.upright import place_of
from flm.geometry import FaceBox, boxes_around, crop_to_unit, square_crop, transform_points, unit_to_crop
from flm.inference.pass_config import PassConfig
from flm.landmarks import IBUG_68
from flm.model.heads import NetworkOutput

SHARD_PX, NUM_FACES = 96, 5
CROP = CropShape(size_px=32, margin=0.125)


def make_batch(off_px: float = 0.0) -> Batch:
    """Drawn faces, cut out around boxes that lie as far to the right and below of where they should."""
    faces = [draw_face(seed, SHARD_PX) for seed in range(NUM_FACES)]
    landmarks = np.stack([landmarks for _, landmarks in faces])
    boxes = [FaceBox.around(points + off_px) for points in landmarks]
    return Batch(
        crops_shard=torch.from_numpy(np.stack([picture for picture, _ in faces])).permute(0, 3, 1, 2),
        landmarks_shard=torch.from_numpy(landmarks).float(),
        shard_to_crop=torch.from_numpy(
            np.stack([square_crop(box, CROP.size_px, CROP.margin) for box in boxes])
        ).float(),
        valid=torch.ones(NUM_FACES, dtype=torch.bool),
        positions=torch.arange(NUM_FACES),
        first_row=0,
        step=0,
        keys=tuple(map(str, range(NUM_FACES))),
        subsets=("",) * NUM_FACES,
        scheme=IBUG_68,
    )


class Answers(nn.Module):
    """Gives one answer after the other, and keeps what it was shown."""

    def __init__(self, *answers_unit: Tensor) -> None:
        super().__init__()
        self.answers_unit = list(answers_unit)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> NetworkOutput:
        self.shown.append(images)
        return NetworkOutput(landmarks_unit=self.answers_unit[len(self.shown) - 1])


def truth_unit(batch: Batch) -> Tensor:
    return crop_to_unit(transform_points(batch.landmarks_shard, batch.shard_to_crop), CROP.size_px)


def look(network: nn.Module, batch: Batch, **passes: bool):
    return find_landmarks(network, batch, crop=CROP, passes=PassConfig(**passes))


def test_one_pass_looks_at_the_box_it_is_given() -> None:
    batch = make_batch(off_px=6.0)
    network = Answers(truth_unit(batch))
    found = look(network, batch)
    assert len(network.shown) == 1
    torch.testing.assert_close(network.shown[0], crop_plainly(batch, size_px=CROP.size_px).images)
    np.testing.assert_allclose(found.landmarks_shard, batch.landmarks_shard, atol=1e-3)


def test_the_second_pass_looks_at_the_box_of_the_landmarks() -> None:
    """What finds the landmarks in a bad box is then shown what the truth would have shown it."""
    batch, ideal = make_batch(off_px=6.0), make_batch()
    network = Answers(truth_unit(batch), truth_unit(ideal))
    found = look(network, batch, second_pass=True)
    torch.testing.assert_close(found.crops.shard_to_crop, ideal.shard_to_crop, atol=1e-3, rtol=1e-4)
    expected = crop_plainly(ideal, size_px=CROP.size_px).images
    assert (network.shown[1] - expected).abs().max() < 0.01
    assert (network.shown[0] - expected).abs().max() > 0.2
    np.testing.assert_allclose(found.landmarks_shard, batch.landmarks_shard, atol=1e-2)


def test_the_second_answer_counts_and_in_its_own_view() -> None:
    batch = make_batch()
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.rand(NUM_FACES, 68, 2, generator=generator) for _ in range(2))
    found = look(Answers(one, two), batch, second_pass=True)
    for row in range(NUM_FACES):
        matrix = batch.shard_to_crop[row].double().numpy()
        first = transform_points(unit_to_crop(one[row].double().numpy(), CROP.size_px), np.linalg.inv(matrix))
        place = place_of(first, IBUG_68)
        assert place is not None
        again = place.crop(CROP.size_px, CROP.margin)
        second = transform_points(unit_to_crop(two[row].double().numpy(), CROP.size_px), np.linalg.inv(again))
        np.testing.assert_allclose(found.landmarks_shard[row], second, atol=1e-3)


def test_both_passes_look_into_the_mirror() -> None:
    batch = make_batch()
    answer = torch.rand(NUM_FACES, 68, 2, generator=torch.Generator().manual_seed(1))
    mirrored = answer[:, list(IBUG_68.mirror_permutation)].clone()
    mirrored[..., 0] = 1 - mirrored[..., 0]
    network = Answers(answer, mirrored, answer, mirrored)
    averaged = look(network, batch, second_pass=True, mirror_average=True)
    assert len(network.shown) == 4
    for plain, flipped in (network.shown[:2], network.shown[2:]):
        torch.testing.assert_close(plain.flip(-1), flipped)
    # Both say the same of the face, so the mean is what each of them says.
    alone = look(Answers(answer, answer), batch, second_pass=True)
    np.testing.assert_allclose(averaged.landmarks_shard, alone.landmarks_shard, atol=1e-3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_first_look_without_a_usable_box_is_followed_by_the_same_view(bad: float) -> None:
    batch = make_batch(off_px=3.0)
    answer = truth_unit(batch)
    answer[1, 5, 0] = bad
    answer[3] = 0.5
    network = Answers(answer, answer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = look(network, batch, second_pass=True)
    for row in (1, 3):
        torch.testing.assert_close(network.shown[1][row], network.shown[0][row])
    for row in (0, 2, 4):
        assert (network.shown[1][row] - network.shown[0][row]).abs().max() > 0.05
    assert found.landmarks_shard.isfinite().flatten(1).all(1).tolist() == [True, False, True, True, True]


def test_boxes_of_many_faces_are_those_of_each() -> None:
    landmarks = make_batch().landmarks_shard.double().numpy()
    left_top, sides = boxes_around(landmarks)
    for points, corner, size in zip(landmarks, left_top, sides, strict=True):
        box = FaceBox.around(points)
        assert (box.left, box.top, box.width, box.height) == (*corner, *size)


def test_only_the_chosen_faces_are_cut_out_anew() -> None:
    batch = make_batch()
    left_top, sides = np.full((NUM_FACES, 2), 10.0), np.full((NUM_FACES, 2), 40.0)
    cut = cut_around(batch, left_top, sides, np.arange(NUM_FACES) == 2, CROP)
    expected = square_crop(FaceBox(left=10.0, top=10.0, width=40.0, height=40.0), CROP.size_px, CROP.margin)
    np.testing.assert_allclose(cut.shard_to_crop[2], expected, rtol=1e-6)
    others = [0, 1, 3, 4]
    assert torch.equal(cut.shard_to_crop[others], batch.shard_to_crop[others])
    assert dataclasses.replace(cut, shard_to_crop=batch.shard_to_crop) == batch
