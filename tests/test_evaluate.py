import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from flm.data.batches import CropShape
from flm.data.samples import Batch
from flm.errors import InputError
from flm.evaluation.evaluate import evaluate
from flm.evaluation.report import EvalReport
from flm.geometry import FaceBox, crop_to_unit, square_crop, transform_points
from flm.inference.detector import DetectedFace
from flm.inference.pass_config import PassConfig
from flm.landmarks import IBUG_68
from flm.model.heads import NetworkOutput
from flm.model.losses import LossConfig, landmark_loss

SHARD_PX, INPUT_PX, NUM_FACES = 72, 32, 25
CROP = CropShape(size_px=INPUT_PX, margin=0.1)
CPU = torch.device("cpu")
DEADLINE_S = 240


def make_batch(num_faces: int = NUM_FACES) -> Batch:
    """Faces of random points. The brightness of a picture is the place of the face, for `Oracle` to read."""
    generator = np.random.default_rng(0)
    landmarks = generator.uniform(16, 56, (num_faces, 68, 2))
    landmarks[:, list(IBUG_68.right_eye), 0] = generator.uniform(16, 30, (num_faces, 6))
    landmarks[:, list(IBUG_68.left_eye), 0] = generator.uniform(42, 56, (num_faces, 6))
    boxes = [FaceBox.around(points) for points in landmarks]
    places = torch.arange(num_faces)
    return Batch(
        crops_shard=(10 * (places + 1)).to(torch.uint8)[:, None, None, None].repeat(1, 3, SHARD_PX, SHARD_PX),
        landmarks_shard=torch.from_numpy(landmarks).float(),
        shard_to_crop=torch.from_numpy(np.stack([square_crop(b, INPUT_PX, 0.1) for b in boxes])).float(),
        valid=torch.ones(num_faces, dtype=torch.bool),
        positions=places,
        first_row=0,
        step=0,
        keys=tuple(f"face-{i}" for i in range(num_faces)),
        subsets=tuple(("common/helen", "common/lfpw", "challenging/ibug")[i % 3] for i in range(num_faces)),
        scheme=IBUG_68,
    )


class Oracle(nn.Module):
    """Knows the truth of each face of `make_batch` and is off by what it is told, px of the stored crop."""

    def __init__(self, batch: Batch, off_shard: Tensor) -> None:
        super().__init__()
        self.frozen, self.trained = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        predicted = batch.landmarks_shard + off_shard
        self.answers_unit = crop_to_unit(transform_points(predicted, batch.shard_to_crop), INPUT_PX)
        self.was_in_evaluation_mode = True

    def forward(self, images: Tensor) -> NetworkOutput:
        modules = list(self.modules())
        self.was_in_evaluation_mode &= not any(module.training for module in modules)
        middle = images[:, 0, INPUT_PX // 2, INPUT_PX // 2]
        places = (middle * 25.5).round().long() - 1
        return NetworkOutput(landmarks_unit=self.answers_unit[places])


class MissesSome:
    """A detector that knows the box of each face of `make_batch`, and misses every seventh."""

    name = "misses some"

    def __init__(self, batch: Batch) -> None:
        self.boxes = [FaceBox.around(landmarks.double().numpy()) for landmarks in batch.landmarks_shard]

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        place = int(picture[0, 0, 0]) // 10 - 1
        return [] if place % 7 == 6 else [DetectedFace(box_image=self.boxes[place], score=0.9)]


def offsets(num_faces: int = NUM_FACES) -> Tensor:
    """Every point of face i is off by (i + 1) / 4 px to the right."""
    off = torch.zeros(num_faces, 68, 2)
    off[..., 0] = (torch.arange(num_faces) + 1)[:, None] / 4
    return off


def run(network: nn.Module, batches: list[Batch], **options: object) -> EvalReport:
    return evaluate(network, batches, crop=CROP, device=CPU, **options)  # type: ignore[arg-type]


def padded(batch: Batch, rows: int) -> Batch:
    """The batch with rows at its end that repeat its first one and do not count."""
    more = rows - len(batch)
    first = batch.split(1)[:1] * more
    return dataclasses.replace(
        batch,
        **{
            name: torch.cat([getattr(one, name) for one in [batch, *first]])
            for name in ("crops_shard", "landmarks_shard", "shard_to_crop", "positions")
        },
        valid=torch.arange(rows) < len(batch),
        keys=batch.keys + batch.keys[:1] * more,
        subsets=batch.subsets + batch.subsets[:1] * more,
    )


@pytest.fixture(scope="module")
def report() -> EvalReport:
    batch = make_batch()
    return run(Oracle(batch, offsets()), batch.split(5), num_pictures=6)


def test_errors_are_what_the_network_was_off_by(report: EvalReport) -> None:
    batch = make_batch()
    corners = batch.landmarks_shard[:, list(IBUG_68.outer_eye_corners)]
    distances = torch.linalg.vector_norm(corners[:, 0] - corners[:, 1], dim=1).numpy()
    expected = (np.arange(NUM_FACES) + 1) / 4 / distances
    np.testing.assert_allclose(report.errors.nme, expected, rtol=1e-4)
    assert report.summary.nme_pct == pytest.approx(100 * expected.mean(), rel=1e-5)
    assert report.subsets["challenging"].nme_pct == pytest.approx(100 * expected[2::3].mean(), rel=1e-4)
    assert report.errors.keys == batch.keys
    assert report.parts == pytest.approx(dict.fromkeys(IBUG_68.parts, report.summary.nme_pct), rel=1e-3)


def test_a_prediction_comes_back_to_the_pixel_that_it_was_read_from() -> None:
    class DotFinder(nn.Module):
        def forward(self, images: Tensor) -> NetworkOutput:
            light = images.mean(dim=1)
            places_unit = (torch.arange(INPUT_PX) + 0.5) / INPUT_PX
            mass = light.sum(dim=(1, 2))
            x, y = (light.sum(dim=1) @ places_unit) / mass, (light.sum(dim=2) @ places_unit) / mass
            return NetworkOutput(landmarks_unit=torch.stack([x, y], dim=1)[:, None].repeat(1, 68, 1))

    batch = make_batch(12)
    crops = torch.zeros_like(batch.crops_shard)
    for crop, landmarks in zip(crops, batch.landmarks_shard.round().long(), strict=True):
        x, y = landmarks[30].tolist()
        crop[:, y - 2 : y + 3, x - 2 : x + 3] = 255
    found = run(DotFinder(), [dataclasses.replace(batch, crops_shard=crops)], num_pictures=12)
    for example in found.examples:
        dot = np.round(example.truth_shard[30])
        np.testing.assert_allclose(example.prediction_shard[30], dot, atol=0.2)
        assert example.picture_shard[int(dot[1]), int(dot[0])].tolist() == [255, 255, 255]


def test_batching_padding_and_order_change_nothing(report: EvalReport) -> None:
    batch = make_batch()
    network = Oracle(batch, offsets())
    batches = [padded(part, 8) for part in reversed(batch.split(7))]
    assert run(network, batches, num_pictures=6).to_json() == report.to_json()


def test_the_worst_faces_come_first_and_the_examples_do_not_depend_on_errors(report: EvalReport) -> None:
    worst = np.argsort(-report.errors.nme)[:6]
    assert [face.key for face in report.worst] == [f"face-{i}" for i in worst]
    assert [face.nme for face in report.worst] == report.errors.nme[worst].tolist()
    batch = make_batch()
    other = run(Oracle(batch, offsets().flip(0)), batch.split(4), num_pictures=6)
    assert [face.key for face in other.examples] == [face.key for face in report.examples]
    assert [face.key for face in other.worst] != [face.key for face in report.worst]
    gaps = np.diff([face.position for face in report.examples])
    assert gaps.min() >= 2
    assert gaps.max() <= 8


def test_no_picture_is_kept_where_none_is_wanted() -> None:
    batch = make_batch()
    found = run(Oracle(batch, offsets()), [batch], num_pictures=0)
    assert found.worst == found.examples == ()


def test_the_network_is_evaluated_and_then_as_it_was() -> None:
    batch = make_batch()
    network = Oracle(batch, offsets()).train()
    network.frozen.eval()
    run(network, [batch])
    assert network.was_in_evaluation_mode
    assert (network.training, network.trained.training, network.frozen.training) == (True, True, False)


def test_autocast_surrounds_the_network() -> None:
    class NeedsAutocast(Oracle):
        def forward(self, images: Tensor) -> NetworkOutput:
            assert torch.is_autocast_enabled("cpu")
            return super().forward(images)

    batch = make_batch()
    found = run(
        NeedsAutocast(batch, offsets()), [batch], autocast=lambda: torch.autocast("cpu", torch.bfloat16)
    )
    assert found.summary.num_faces == NUM_FACES


def test_the_mirrored_picture_takes_away_a_bias_to_one_side() -> None:
    class Biased(nn.Module):
        """Sees a face by its symmetry only: points at the middle, all off to the right of the picture."""

        def forward(self, images: Tensor) -> NetworkOutput:
            landmarks_unit = torch.full((len(images), 68, 2), 0.5)
            landmarks_unit[..., 0] += 0.1
            landmarks_unit[:, list(IBUG_68.left_eye), 1] -= 0.2
            return NetworkOutput(landmarks_unit=landmarks_unit)

    batch = make_batch(4)
    plain = run(Biased(), [batch], num_pictures=4).examples
    averaged = run(Biased(), [batch], passes=PassConfig(mirror_average=True), num_pictures=4).examples
    for one, two, matrix in zip(plain, averaged, batch.shard_to_crop, strict=True):
        one_unit, two_unit = (
            crop_to_unit(transform_points(face.prediction_shard, matrix.double().numpy()), INPUT_PX)
            for face in (one, two)
        )
        np.testing.assert_allclose(one_unit[:, 0], 0.6, atol=1e-4)
        np.testing.assert_allclose(two_unit[:, 0], 0.5, atol=1e-4)
        eyes = [*IBUG_68.left_eye, *IBUG_68.right_eye]
        np.testing.assert_allclose(two_unit[eyes, 1], 0.4, atol=1e-4)
        np.testing.assert_allclose(two_unit[list(IBUG_68.parts["jaw"]), 1], 0.5, atol=1e-4)


def test_the_loss_is_the_mean_over_faces_that_count() -> None:
    batch = make_batch()
    network = Oracle(batch, offsets())
    config = LossConfig(kind="l2")
    found = run(network, [padded(part, 8) for part in batch.split(7)], loss=config)
    truth_unit = crop_to_unit(transform_points(batch.landmarks_shard, batch.shard_to_crop), INPUT_PX)
    output = network(batch.crops_shard[:, :, :INPUT_PX, :INPUT_PX] / 255)
    whole = landmark_loss(output, truth_unit, batch.valid, config)["total"].item()
    assert found.loss == pytest.approx(whole, rel=1e-4)
    assert found.to_flat()["loss"] == found.loss
    assert run(network, [batch]).loss is None


def test_faces_that_cannot_be_measured_are_named() -> None:
    batch = make_batch()
    network = Oracle(batch, offsets())
    flat = batch.landmarks_shard.clone()
    flat[3] = 20.0
    with pytest.raises(InputError, match=r"1 of the faces with eyes or a box below one pixel.*face-3"):
        run(network, dataclasses.replace(batch, landmarks_shard=flat).split(5))
    network.answers_unit[[7, 9]] = torch.nan
    with pytest.raises(
        InputError, match=r"2 of the faces got a prediction that is not finite.*face-7, face-9"
    ):
        run(network, batch.split(5))


def test_an_evaluation_of_nothing_is_refused() -> None:
    batch = make_batch()
    padding = dataclasses.replace(batch, valid=torch.zeros(NUM_FACES, dtype=torch.bool))
    for batches in ([], [padding]):
        with pytest.raises(InputError, match="no face to evaluate"):
            run(Oracle(batch, offsets()), batches)


def rows_of(batch: Batch, process: int, num_processes: int) -> list[Batch]:
    """What one of several processes reads: its share of each global batch of 4 rows a process, padded."""
    shares = [part.split(4) for part in batch.split(4 * num_processes)]
    return [
        padded(share[process], 4)
        if process < len(share)
        else dataclasses.replace(share[0], valid=torch.zeros(len(share[0]), dtype=torch.bool))
        for share in shares
    ]


def evaluate_as_one_of_several(process: int, num_processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=num_processes
    )
    batch = make_batch()
    network = Oracle(batch, offsets())
    own = rows_of(batch, process, num_processes)
    report = run(network, own, num_pictures=6)
    pictures = [[face.key for face in faces] for faces in (report.worst, report.examples)]
    detected = run(network, own, detector=MissesSome(batch), passes=PassConfig(mirror_average=True))
    network.answers_unit[5] = torch.nan
    try:
        run(network, own)
        refusal = "none"
    except InputError as error:
        refusal = str(error)
    found = {
        "json": report.to_json(),
        "pictures": pictures,
        "refusal": refusal,
        "detected": detected.to_json(),
    }
    Path(folder, f"{process}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.multiprocess
def test_two_processes_report_what_one_does(tmp_path: Path, report: EvalReport) -> None:
    num_processes = 2
    context = multiprocessing.start_processes(
        evaluate_as_one_of_several,
        args=(num_processes, str(tmp_path)),
        nprocs=num_processes,
        join=False,
        start_method="spawn",
    )
    assert context is not None
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the processes wait for each other"
    finally:
        for process in context.processes:
            process.kill()
    found = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(num_processes)]
    assert found == [found[0]] * num_processes
    assert found[0]["json"] == report.to_json()
    keys = [[face.key for face in faces] for faces in (report.worst, report.examples)]
    assert found[0]["pictures"] == keys
    assert "face-5" in found[0]["refusal"]
    batch = make_batch()
    passes = PassConfig(mirror_average=True)
    alone = run(Oracle(batch, offsets()), batch.split(5), detector=MissesSome(batch), passes=passes)
    assert found[0]["detected"] == alone.to_json()
    assert found[0]["detected"]["not_detected"] == ["face-13", "face-20", "face-6"]
