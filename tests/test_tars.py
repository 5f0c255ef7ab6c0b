"""Which members belong together, and which have no place in a shard."""

import io
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from flm.data.tars import leads_outside, member_fault, split_member_name
from flm.data.writer import MEMBER_MTIME_S, write_shard


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


def test_the_bytes_are_those_of_webdatasets_own_writer(tmp_path):
    samples = [{"__key__": key, "json": b"{}" * 300, "jpg": key.encode() * 200} for key in ("b", "a/c" * 30)]
    entry = write_shard(tmp_path / "a.tar", samples)
    buffer = io.BytesIO()
    options = {"mtime": MEMBER_MTIME_S, "user": "flm", "group": "flm", "mode": 0o644}
    with webdataset.TarWriter(buffer, encoder=False, **options) as tar:
        for sample in samples:
            tar.write(sample)
    assert (tmp_path / "a.tar").read_bytes() == buffer.getvalue()
    assert entry.num_samples == 2
