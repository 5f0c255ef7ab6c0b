"""Several folders of shards as one: the same tars, all their faces, and nothing twice but by wish."""

from collections import Counter
from pathlib import Path

import pytest
from test_verify import check, make_sample, write_folder

from flm.data.loader import CropShape, LoaderConfig, ProcessPlace, training_batches
from flm.data.manifest import Manifest
from flm.data.store import open_store
from flm.errors import InputError
from shards.__main__ import main
from shards.merge import merge


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    def samples(name: str, seeds: range):
        return [make_sample(seed, f"{name}_{seed}") for seed in seeds]

    one, other = tmp_path / "one", tmp_path / "other"
    write_folder(
        one,
        {
            "train-000000.tar": samples("one", range(4)),
            "train-000001.tar": samples("one", range(4, 6)),
            "validation-000000.tar": samples("one", range(10, 12)),
            "test-000000.tar": samples("one", range(12, 14)),
        },
    )
    write_folder(
        other,
        {
            "train-000000.tar": samples("other", range(20, 23)),
            "validation-000000.tar": samples("other", range(30, 32)),
        },
    )
    return one, other


def hashes(manifest: Manifest, split: str) -> list[str]:
    return [entry.sha256 for entry in manifest.splits.get(split, ())]


def test_all_tars_are_there_byte_for_byte(folders, tmp_path):
    out = tmp_path / "all"
    merged = merge(folders, out)
    one, other = map(Manifest.read, folders)
    for split in ("train", "validation", "test"):
        assert hashes(merged, split) == hashes(one, split) + hashes(other, split)
    assert merged.licence == "MIT"
    assert Manifest.read(out) == merged
    assert not check(out).findings
    assert (out / "train-000002.tar").samefile(folders[1] / "train-000000.tar")


def test_only_the_training_split_of_some(folders, tmp_path):
    one, other = folders
    merged = merge([one], tmp_path / "all", only_train=[other])
    assert merged.num_samples("train") == 9
    assert hashes(merged, "validation") == hashes(Manifest.read(one), "validation")
    assert not check(tmp_path / "all").findings


def test_a_folder_named_twice_comes_twice_an_epoch(folders, tmp_path):
    one, other = folders
    merge([one], tmp_path / "all", only_train=[one, other])
    assert not check(tmp_path / "all").findings
    batches = training_batches(
        open_store(str(tmp_path / "all")),
        LoaderConfig(num_workers=0),
        CropShape(size_px=32, margin=0.1),
        steps=range(3),
        batch_size=5,
        seed=0,
        place=ProcessPlace(),
    )
    seen = Counter(key for batch in batches for key in batch.keys)
    assert seen == {**{f"one_{i}": 2 for i in range(6)}, **{f"other_{i}": 1 for i in range(20, 23)}}


def test_the_same_key_in_other_tars_is_still_found(folders, tmp_path):
    write_folder(tmp_path / "third", {"train-000000.tar": [make_sample(50, "one_0")]})
    merge([*folders, tmp_path / "third"], tmp_path / "all")
    assert [finding.key for finding in check(tmp_path / "all").errors] == ["one_0"]


def test_the_command_says_what_there_is(folders, tmp_path, capsys):
    main(["merge", *map(str, folders), "--out", str(tmp_path / "all")])
    told = capsys.readouterr().out
    assert "9 train, 4 validation, 2 test faces" in told
    assert "licence: MIT" in told


def test_mistakes_are_one_line_and_change_nothing(folders, tmp_path):
    one, other = folders
    with pytest.raises(InputError, match="at least two"):
        merge([one], tmp_path / "all")
    with pytest.raises(InputError, match="choose another"):
        merge(folders, one)
    (other / "train-000000.tar").unlink()
    with pytest.raises(InputError, match=r"other/train-000000\.tar: is in the manifest there"):
        merge(folders, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    text = (other / "manifest.json").read_text().replace("ibug-68", "wflw-98")
    (other / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"its scheme is wflw-98, that of .*one is ibug-68"):
        merge(folders, tmp_path / "all")
