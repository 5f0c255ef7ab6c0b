"""Shards with the landmarks of a teacher: same pictures, its own predictions, resumed where it stopped."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MEAN_FACE_UNIT
from safetensors.torch import save_file
from test_verify import Sample, change_json, check, contents, make_sample, samples_in, write_folder

import flm.evaluation.relabel
from flm.checkpoint import CHECKPOINT_SCHEMA_VERSION, CONFIG_NAME, MODEL_NAME
from flm.cli import main
from flm.data.manifest import Manifest
from flm.data.samples import SampleRecord, decode_crop
from flm.errors import InputError
from flm.evaluation.relabel import PASSES, RelabelOptions, relabel
from flm.fields import to_fields
from flm.files import write_json
from flm.geometry import FaceBox, crop_to_unit, square_crop, transform_points
from flm.inference.predictor import Predictor
from flm.inference.torch_network import TorchNetwork
from flm.landmarks import IBUG_68, WFLW_98
from flm.metrics.nme import nme
from flm.model.network import ModelConfig, build_network
from flm.recipes import recipe_named
from flm.training.config import TrainConfig

MODEL = ModelConfig(backbone="xception_compact_slim", head="regression", input_size_px=64)
OWN_BOX = {"left": 40.0, "top": 20.0, "width": 55.0, "height": 70.0}
"""A box that an annotator might have drawn, px of the picture."""


def write_teacher(folder: Path, num_points: int = 68) -> Path:
    """A checkpoint that finds the mean face where the box says, a little elsewhere in each picture."""
    scheme = {68: "ibug-68", 98: "wflw-98"}[num_points]
    config = dataclasses.replace(MODEL, scheme=scheme)
    torch.manual_seed(0)
    network = build_network(config)
    mean = np.concatenate([MEAN_FACE_UNIT, MEAN_FACE_UNIT[: num_points - 68]]) * 100
    matrix = square_crop(FaceBox.around(mean), config.input_size_px, config.crop_margin)
    unit = crop_to_unit(transform_points(mean, matrix), config.input_size_px)
    state = network.state_dict()
    state["head.coordinates.bias"].copy_(torch.from_numpy(unit - 0.5).flatten())
    folder.mkdir(parents=True)
    save_file(state, folder / MODEL_NAME)
    fields = to_fields(TrainConfig(recipe="teacher", model=config))
    write_json(folder / CONFIG_NAME, {"schema_version": CHECKPOINT_SCHEMA_VERSION, **fields})
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teachers") / "teacher")


def shards() -> dict[str, list[Sample]]:
    """Two faces whose box is their annotator's; others whose box is only the landmarks' own."""
    faces = [make_sample(i, f"train_{i}") for i in range(12)]
    for i in (1, 7):
        faces[i] = change_json(faces[i], face_box_image=OWN_BOX)
    return {
        "train-000000.tar": faces[:5],
        "train-000001.tar": faces[5:8],
        "train-000002.tar": faces[8:],
        "validation-000000.tar": [make_sample(i, f"validation_{i}") for i in range(20, 23)],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_folder(folder, shards())
    return folder


@pytest.fixture(scope="module")
def relabelled(data, teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "relabelled"
    relabel(str(data), teacher, out, RelabelOptions(batch_size=4))
    return out


def records(folder: Path) -> dict[str, SampleRecord]:
    return {key: SampleRecord.from_json(text) for key, (_, text) in samples_in(folder).items()}


def test_landmarks_are_those_of_the_predictor(data, teacher, relabelled):
    predictor = Predictor(TorchNetwork.load(teacher), passes=PASSES)
    before, after = records(data), records(relabelled)
    assert before.keys() == after.keys()
    moved = []
    for key, (jpeg, _) in samples_in(data).items():
        box = FaceBox.around(before[key].landmarks_shard)
        (face,) = predictor.predict(decode_crop(jpeg), [box])
        np.testing.assert_allclose(after[key].landmarks_shard, face.landmarks_image, atol=0.01)
        moved.append(abs(face.box_image.left - box.left))
    # There was a second look.
    assert max(moved) > 0.1


def test_all_else_is_the_same(data, relabelled):
    one, other = samples_in(data), samples_in(relabelled)
    assert {key: jpeg for key, (jpeg, _) in one.items()} == {key: jpeg for key, (jpeg, _) in other.items()}
    before, after = records(data), records(relabelled)
    for key, record in before.items():
        new = after[key]
        assert np.abs(new.landmarks_shard - record.landmarks_shard).max() > 0.1
        for name in ("scheme", "subset", "source_file", "group", "mirror_of"):
            assert getattr(new, name) == getattr(record, name)
        np.testing.assert_array_equal(new.image_to_shard, record.image_to_shard)


def test_a_face_box_follows_the_landmarks_unless_it_is_the_annotators(relabelled):
    for key, record in records(relabelled).items():
        landmarks_image = transform_points(record.landmarks_shard, np.linalg.inv(record.image_to_shard))
        own = FaceBox(**OWN_BOX) if key in ("train_1", "train_7") else FaceBox.around(landmarks_image)
        difference = dataclasses.astuple(own), dataclasses.astuple(record.face_box_image)
        np.testing.assert_allclose(*difference, atol=0.001)


def test_the_shards_are_whole_and_say_what_made_them(data, relabelled, teacher):
    assert [one for one in check(relabelled).findings if one.kind.is_error] == []
    before, after = Manifest.read(data), Manifest.read(relabelled)
    assert before.labels == ""
    assert after.labels.startswith("train and validation: found by teacher (xception_compact_slim, weights ")
    assert "; 0 of 15 faces dropped, further than 0.15 of the inter-ocular distance" in after.labels
    assert str(teacher) not in (relabelled / "manifest.json").read_text()
    assert after.content_hash() != before.content_hash()
    changed = dataclasses.replace(after, labels="", splits=before.splits)
    assert changed == before
    assert {path.name for path in relabelled.iterdir()} == {path.name for path in data.iterdir()}


def test_two_times_gives_equal_bytes_and_the_second_time_nothing_is_done(
    data, teacher, relabelled, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    relabel(str(data), teacher, out)
    # Even the number of faces at a time changes nothing but rounding, which the file does not hold.
    one, other = records(relabelled), records(out)
    for key, record in one.items():
        np.testing.assert_allclose(record.landmarks_shard, other[key].landmarks_shard, atol=2e-4)
    before = contents(out)
    monkeypatch.setattr(flm.evaluation.relabel, "find_landmarks", None)
    relabel(str(data), teacher, out)
    assert contents(out) == before


def test_it_goes_on_where_it_was_stopped(data, teacher, relabelled, tmp_path, monkeypatch):
    out, looked_at, stop_after = tmp_path / "out", [], 2
    find = flm.evaluation.relabel.find_landmarks

    def counting(network, batch, **options):
        if len(looked_at) == stop_after:
            raise KeyboardInterrupt
        looked_at.append(batch.keys)
        return find(network, batch, **options)

    monkeypatch.setattr(flm.evaluation.relabel, "find_landmarks", counting)
    options = RelabelOptions(batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        relabel(str(data), teacher, out, options)
    assert not (out / "manifest.json").exists()
    # Batches of 4 faces: two for the first shard, one for each other.
    stop_after = 100
    relabel(str(data), teacher, out, options)
    assert len(looked_at) == 5
    assert len({key for keys in looked_at for key in keys}) == 15
    assert contents(out) == contents(relabelled)


def moved(sample: Sample, by_px: float) -> Sample:
    """The same face with a label that lies elsewhere, all points in different directions."""
    landmarks = np.array(json.loads(sample["json"])["landmarks_shard"])
    landmarks += by_px * np.random.default_rng(0).choice([-1, 1], landmarks.shape)
    return change_json(sample, landmarks_shard=landmarks.tolist())


def test_faces_whose_label_lies_elsewhere_are_dropped_and_counted(teacher, tmp_path):
    faces = shards()
    faces["train-000000.tar"][2] = moved(faces["train-000000.tar"][2], 5)
    # A shard of which nothing is left.
    faces["train-000001.tar"] = [moved(face, 6) for face in faces["train-000001.tar"]]
    write_folder(tmp_path / "data", faces)
    out = tmp_path / "out"
    manifest = relabel(str(tmp_path / "data"), teacher, out)
    dropped = {"train_2", "train_5", "train_6", "train_7"}
    before, after = records(tmp_path / "data"), records(out)
    assert before.keys() - after.keys() == dropped
    distances = {
        key: nme(*(torch.from_numpy(one[key].landmarks_shard)[None] for one in (after, before)), IBUG_68)
        for key in after
    }
    assert max(distances.values()) <= 0.15
    assert [shard.name for shard in manifest.splits["train"]] == ["train-000000.tar", "train-000002.tar"]
    assert not (out / "train-000001.tar").exists()
    assert manifest.subsets["train"] == {"even": 4, "odd": 4}
    assert "; 4 of 15 faces dropped, " in manifest.labels
    assert [one for one in check(out).findings if one.kind.is_error] == []
    # Between that of the best and that of the worst face, some stay.
    middle = float(np.median(list(distances.values())))
    few = relabel(str(tmp_path / "data"), teacher, out, RelabelOptions(max_distance=middle))
    stay = {key for key, distance in distances.items() if distance <= middle}
    assert records(out).keys() == stay
    assert sum(map(few.num_samples, few.splits)) == len(stay) < 11


def test_other_splits_go_along_as_they_are(data, teacher, relabelled, tmp_path):
    out = tmp_path / "out"
    manifest = relabel(str(data), teacher, out, RelabelOptions(splits=("train",), batch_size=4))
    assert manifest.labels.startswith("train: found by teacher")
    for path in data.glob("*.tar"):
        source = relabelled if path.name.startswith("train") else data
        assert (out / path.name).read_bytes() == (source / path.name).read_bytes()
    twice = relabel(str(out), teacher, tmp_path / "twice", RelabelOptions(splits=("validation",)))
    assert twice.labels.startswith(f"{manifest.labels}; then validation: found by ")


def test_a_teacher_of_another_scheme_drops_nothing_and_leaves_other_splits_out(data, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", 98)
    options = RelabelOptions(splits=("train",), max_distance=1e-6)
    manifest = relabel(str(data), teacher, tmp_path / "out", options)
    assert (manifest.scheme, list(manifest.splits)) == ("wflw-98", ["train"])
    assert manifest.labels.endswith("; 0 of 12 faces dropped")
    assert {record.landmarks_shard.shape for record in records(tmp_path / "out").values()} == {(98, 2)}
    assert manifest.landmark_scheme == WFLW_98
    assert [one for one in check(tmp_path / "out").findings if one.kind.is_error] == []


def test_the_command(data, teacher, tmp_path, capsys):
    main(["relabel", str(data), "--checkpoint", str(teacher), "--out", str(tmp_path / "out")])
    assert f"{tmp_path / 'out'}: 12 train, 3 validation faces; train and validation: found by teacher" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "DATA"], "is the folder that is read; choose another"),
        (["--splits", "tran"], "the shards have no split 'tran'; they have train, validation"),
        (["--max-distance", "0"], "--max-distance is 0.0, must be a number above 0"),
        (["--batch-size", "0"], "--batch-size is 0, must be at least 1"),
        (["--max-distance", "1e-6"], "split 'train': none of its faces is left, as"),
        (["--checkpoint", "nowhere"], "nowhere: no checkpoint here"),
        (["FOREIGN"], "these shards are somebody else's; relabel those that `python -m shards convert` made"),
    ],
)
def test_a_mistake_is_one_line(data, teacher, tmp_path, capfd, flags, message):
    source = data
    if flags == ["FOREIGN"]:
        flags, source = [], tmp_path / "foreign"
        source.mkdir()
        fields = json.loads((data / "manifest.json").read_text())
        (source / "manifest.json").write_text(json.dumps({**fields, "sample_format": {}}))
    flags = [str(data) if flag == "DATA" else flag for flag in flags]
    words = ["relabel", str(source), "--checkpoint", str(teacher), "--out", str(tmp_path / "out"), *flags]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_network_that_has_diverged_is_told(data, teacher, tmp_path, monkeypatch):
    def nothing(network, batch, **options):
        found = find(network, batch, **options)
        return dataclasses.replace(found, landmarks_shard=found.landmarks_shard * float("nan"))

    find = flm.evaluation.relabel.find_landmarks
    monkeypatch.setattr(flm.evaluation.relabel, "find_landmarks", nothing)
    with pytest.raises(InputError, match="train_0: the network finds no finite landmarks in it"):
        relabel(str(data), teacher, tmp_path / "out")


def test_a_small_network_learns_from_what_was_written(relabelled, tmp_path):
    from accelerate.state import AcceleratorState

    from flm.train import train

    quick = recipe_named("quickstart")
    run = train(
        dataclasses.replace(
            quick,
            data=str(relabelled),
            out=tmp_path / "run",
            steps=2,
            batch_size=4,
            model=dataclasses.replace(quick.model, input_size_px=64, head_channels=16),
            loader=dataclasses.replace(quick.loader, num_workers=0),
            tracking=dataclasses.replace(quick.tracking, tracker="none"),
        )
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    assert (run / "best" / MODEL_NAME).is_file()
