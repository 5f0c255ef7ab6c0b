"""A face counts in the subsets that its string lists, and in those around them."""

import numpy as np
import pytest

from flm.faces.subsets import count_subsets, innermost_subsets, join_subsets, listed_subsets, subset_names
from flm.metrics.nme import FaceErrors


@pytest.mark.parametrize(
    ("subset", "listed", "names"),
    [
        ("", (), ()),
        ("helen", ("helen",), ("helen",)),
        ("common/helen", ("common/helen",), ("common", "common/helen")),
        ("blur+occlusion", ("blur", "occlusion"), ("blur", "occlusion")),
        ("a/b+a/c", ("a/b", "a/c"), ("a", "a/b", "a/c")),
    ],
)
def test_names_of_a_string(subset, listed, names):
    assert listed_subsets(subset) == listed
    assert subset_names(subset) == names
    assert join_subsets(listed) == subset


def test_a_face_of_two_subsets_counts_once_in_each_and_once_in_all():
    nme = np.array([0.01, 0.02, 0.04])
    errors = FaceErrors(
        positions=np.arange(3),
        nme=nme,
        nme_inter_pupil=nme,
        nme_box=nme,
        nme_parts=nme[:, None],
        parts=("face",),
        keys=("a", "b", "c"),
        subsets=("blur+occlusion", "", "occlusion"),
    )
    counted = {name: faces.keys for name, faces in errors.by_subset().items()}
    assert counted == {"blur": ("a",), "occlusion": ("a", "c"), "full": ("a", "b", "c")}


def test_the_innermost_subsets_stand_for_those_around_them():
    assert innermost_subsets(["common", "common/helen", "commons", "rest"]) == [
        "common/helen",
        "commons",
        "rest",
    ]
    assert innermost_subsets([]) == []


def test_counting_takes_a_face_once_for_each_of_its_subsets():
    counted = count_subsets(["b+a", "a", "", "c/d"])
    assert list(counted.items()) == [("a", 2), ("b", 1), ("c/d", 1)]
