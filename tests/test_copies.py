"""Photos that a data set has under several names are found by their looks, and held out together."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import MEAN_FACE_UNIT
from hypothesis import given
from hypothesis import strategies as st

from flm.data.store import LocalStore
from flm.geometry import FaceBox
from shards.annotation import DataSet, FaceAnnotation, PictureFile
from shards.convert import ConvertOptions, convert
from shards.copies import merged
from shards.verification.findings import Kind
from shards.verify import verify

NUM_PHOTOS = 12
COPIES = 3


@pytest.fixture
def faces(tmp_path: Path) -> list[FaceAnnotation]:
    """Each photo three times under names that tell nothing: as it is, coded badly and smaller, lighter."""
    found = []
    for photo in range(NUM_PHOTOS):
        random = np.random.default_rng(photo)
        landmarks = MEAN_FACE_UNIT * 60 + 30 + random.normal(0, 1, (68, 2))
        clouds = cv2.resize(random.uniform(40, 215, (8, 8, 3)).astype(np.float32), (120, 120))
        picture = clouds.clip(0, 255).astype(np.uint8)
        for copy in range(COPIES):
            number = copy * NUM_PHOTOS + photo
            path, scale = tmp_path / f"{number:02d}.jpg", 0.7 if copy == 1 else 1.0
            shown = (picture * 0.8 + 30).astype(np.uint8) if copy == 2 else picture
            shown = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(path), shown, [cv2.IMWRITE_JPEG_QUALITY, 40 if copy == 1 else 95])
            landmarks_image = (landmarks + 0.5) * scale - 0.5
            found.append(
                FaceAnnotation(
                    picture=PictureFile(path),
                    landmarks_image=landmarks_image,
                    scheme="ibug-68",
                    face_box_image=FaceBox.around(landmarks_image),
                    split="test" if photo == 0 and copy == 2 else "train",
                    subset="",
                    source_file=path.name,
                    group=path.name,
                )
            )
    return found


def convert_and_verify(
    faces: list[FaceAnnotation], out: Path, **options: object
) -> tuple[list[str], list[str]]:
    """Where near-duplicates of train and validation are, and what is in test."""
    data_set = DataSet(faces=faces, source="drawn", split_rule="as drawn", licence="MIT", left_out={})
    options = {"processes": 1, "crop_size_px": 64, "validation_share": 0.25, **options}
    manifest = convert(data_set, out, ConvertOptions(**options))
    assert ("look the same are held out together" in manifest.split_rule) == ("group_copies" in options)
    assert [manifest.num_samples(split) for split in ("train", "validation", "test")][2] == 1
    found = verify(LocalStore(out), processes=1)
    assert not found.errors
    pairs = [one.detail for one in found.findings if one.kind is Kind.NEAR_DUPLICATE]
    tests = [key for report in found.reports if report.split == "test" for key in report.facts.keys]
    return [told for told in pairs if ", of validation" in told], tests


def test_copies_are_held_out_together_only_where_asked_for(tmp_path, faces):
    straddling, tests = convert_and_verify(faces, tmp_path / "plain")
    assert len(straddling) > 3
    together, same_tests = convert_and_verify(faces, tmp_path / "together", group_copies=True)
    assert together == []
    assert same_tests == tests


@pytest.mark.multiprocess
def test_processes_change_nothing(tmp_path, faces):
    for processes in (1, 2):
        convert_and_verify(faces, tmp_path / str(processes), group_copies=True, processes=processes)
    one, two = ([path.read_bytes() for path in sorted((tmp_path / name).glob("*.*"))] for name in "12")
    assert one == two


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12))
def test_what_looks_the_same_by_way_of_others_is_one(faces):
    """Hashes of four pictures that have nothing in common, each face of some group."""
    pictures = np.random.default_rng(0).integers(0, 2**63, 4).astype(np.uint64)
    groups = [f"g{group}" for group, _ in faces]
    found = merged(groups, pictures[[picture for _, picture in faces]])
    together = {group: {group} for group in groups}
    for (one, picture), (other, same) in ((a, b) for a in faces for b in faces):
        if picture == same:
            union = together[f"g{one}"] | together[f"g{other}"]
            together |= dict.fromkeys(union, union)
    assert {group: found.get(group, group) for group in groups} == {
        group: min(together[group]) for group in groups
    }


def test_no_face_has_no_copy():
    assert merged([], np.empty(0, np.uint64)) == {}
