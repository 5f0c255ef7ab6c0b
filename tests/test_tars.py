"""Which members belong together, and which have no place in a shard."""

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flm.data.tars import leads_outside, member_fault, split_member_name


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("a/b.points.NPY", "a/b", "points.npy"),
        ("./v1.2/b.JPG", "./v1.2/b", "jpg"),
        ("a/b", "a/b", ""),
    ],
)
def test_key_and_extension_are_those_of_webdataset(name, key, extension):
    assert split_member_name(name) == (key, extension)


@given(st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=5))
def test_a_path_leads_outside_if_a_part_of_it_goes_up(parts):
    assert leads_outside("/".join(parts)) == (".." in parts)
    assert leads_outside("/" + "/".join(parts))


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (tarfile.REGTYPE, None),
        (tarfile.DIRTYPE, None),
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is no plain file"),
        (tarfile.FIFOTYPE, "is no plain file"),
    ],
)
def test_only_plain_files_and_folders_have_a_place(kind, fault):
    member = tarfile.TarInfo("a.jpg")
    member.type = kind
    assert member_fault(member) == fault
    member.name = "b/../../a.jpg"
    assert member_fault(member) == "its path leads outside the folder"
