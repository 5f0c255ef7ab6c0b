"""The page of a data set: what it says is counted, and it needs nothing from outside."""

import base64
import dataclasses
import hashlib
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
from conftest import draw_face, sample_bytes
from html_page import Page

from flm.data.manifest import Manifest, ShardEntry
from flm.data.samples import SampleRecord
from flm.data.store import open_store
from flm.errors import InputError
from flm.geometry import FaceBox
from flm.page.html import number, percent
from flm.page.plot import nice_ticks
from shards import __main__ as program
from shards.annotation import DataSet, FaceAnnotation, PictureFile
from shards.convert import ConvertOptions, convert
from shards.inspect import inspect
from shards.inspection.charts import histogram, linear_axis, logarithmic_axis
from shards.inspection.faces import outside_share, places_of, read_faces
from shards.inspection.galleries import faces_for_sheets
from shards.inspection.options import InspectOptions

OPTIONS = InspectOptions(processes=1)
FACES = {"train": 60, "test": 12}


@pytest.fixture(scope="module")
def shards(make_shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    make_shards(folder, FACES, shard_size=25)
    return folder


@pytest.fixture(scope="module")
def page(shards, tmp_path_factory) -> tuple[str, Page]:
    out = tmp_path_factory.mktemp("page") / "report.html"
    inspect(open_store(shards), out, OPTIONS)
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_tells_what_the_manifest_tells(page, shards):
    _, seen = page
    manifest = Manifest.read(shards)
    for said in ("72 faces", "60 train", "12 test", manifest.licence, manifest.source, manifest.split_rule):
        assert said in seen.text, said
    assert manifest.content_hash() in seen.text
    assert "Measured on every face." in seen.text


def test_the_page_needs_nothing_from_outside(page):
    text, seen = page
    assert not re.findall(r"(?:src|href|url|action)\s*[=(]\s*['\"]?(?!data:image/jpeg;base64,)\w", text)
    assert not re.search(r"https?://|@import|<script|<link|javascript:", text)
    policy = next(meta["content"] for meta in seen.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_picture_says_what_it_shows(page):
    _, seen = page
    pictures = seen.all("img")
    assert len(pictures) >= OPTIONS.unusual + 2 * 9
    for attributes in pictures:
        assert len(attributes["alt"] or "") > 10
        source = attributes["src"] or ""
        jpeg = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
        decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape[:2] == (int(attributes["height"] or 0), int(attributes["width"] or 0))
    charts = seen.all("svg")
    # Yaw, pitch, roll, size, border, distance; the mean and four modes.
    assert len(charts) == 11
    assert all(len(attributes["aria-label"] or "") > 10 for attributes in charts)


def test_equal_shards_give_the_same_page_whatever_the_processes(page, shards, tmp_path):
    inspect(open_store(shards), tmp_path / "again.html", InspectOptions(processes=2))
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page[0]


def write_tar(folder: Path, faces: list[dict[str, str | bytes]], manifest: Manifest, subset: str) -> None:
    """Shards of these samples, all of train."""
    folder.mkdir()
    path = folder / "train-000000.tar"
    with webdataset.TarWriter(str(path), mtime=0) as tar:
        for face in faces:
            tar.write(face)
    content = path.read_bytes()
    entry = ShardEntry(
        name=path.name,
        num_samples=len(faces),
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    subsets = {"train": {subset: len(faces)}}
    dataclasses.replace(manifest, splits={"train": (entry,)}, subsets=subsets).write(folder)


def test_a_planted_mistake_is_the_first_of_the_unusual(tmp_path, shards):
    faces = [sample_bytes(seed, f"face_{seed:03d}", 64) for seed in range(50)]
    record = SampleRecord.from_json(bytes(faces[33]["json"]))
    record.landmarks_shard[30] += [9.0, 0.0]
    faces[33]["json"] = record.to_json()
    write_tar(tmp_path / "shards", faces, Manifest.read(shards), "drawn")
    inspect(open_store(tmp_path / "shards"), tmp_path / "page.html", OPTIONS)
    seen = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    first = seen.all("img")[0]["alt"] or ""
    assert first.startswith("face_033: ")
    assert "nose and point 30 deviate most" in first


def test_another_scheme_has_poses_too(tmp_path, shards):
    random = np.random.default_rng(0)
    # Any 98 places will do, as long as they are much the same from face to face.
    places = random.uniform(15, 50, (98, 2))
    places[[60, 72]] = [[20, 25], [44, 25]]
    faces = []
    for seed in range(30):
        face = sample_bytes(seed, f"face_{seed}", 64)
        record = SampleRecord.from_json(bytes(face["json"]))
        landmarks = places + random.normal(0, 0.5, (98, 2))
        face["json"] = dataclasses.replace(record, scheme="wflw-98", landmarks_shard=landmarks).to_json()
        faces.append(face)
    write_tar(
        tmp_path / "shards", faces, dataclasses.replace(Manifest.read(shards), scheme="wflw-98"), "drawn"
    )
    inspect(open_store(tmp_path / "shards"), tmp_path / "page.html", OPTIONS)
    seen = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "98 points" in seen.text
    assert "Yaw" in seen.text
    assert len(seen.all("svg")) == 3 + 5 + 3


def test_names_of_a_data_set_are_text_not_html(tmp_path, shards):
    evil = "<img src=x onerror=alert(1)>\"'&"
    faces = [sample_bytes(seed, f"face_{seed}", 64, subset=evil) for seed in range(25)]
    write_tar(tmp_path / "shards", faces, Manifest.read(shards), evil)
    inspect(open_store(tmp_path / "shards"), tmp_path / "page.html", OPTIONS)
    seen = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert evil in seen.text
    assert not [1 for _, attributes in seen.elements if "onerror" in attributes or "x" in attributes.values()]


@pytest.mark.parametrize("num_faces", [1, 5])
def test_a_handful_of_faces_makes_a_page_too(tmp_path, make_shards, num_faces):
    make_shards(tmp_path / "shards", {"train": num_faces})
    inspect(open_store(tmp_path / "shards"), tmp_path / "page.html", OPTIONS)
    seen = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Too few to say what is usual" in seen.text
    assert len(seen.all("svg")) == 5


def test_a_large_data_set_is_sampled_and_the_page_says_so(tmp_path, shards):
    inspect(open_store(shards), tmp_path / "page.html", InspectOptions(processes=1, max_faces=30))
    seen = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Measured on 30 faces, spread evenly over the shards." in seen.text
    assert "72 faces" in seen.text


def test_sampled_faces_are_spread_over_all_shards(shards):
    manifest = Manifest.read(shards)
    every = places_of(manifest, 10**6)
    assert len(every) == 72
    assert len({(where.shard.name, where.place) for where in every}) == 72
    for most in (1, 7, 30, 71):
        some = places_of(manifest, most)
        assert len(some) == most
        assert set(some) <= set(every)
        assert some == places_of(manifest, most)
    shares = [
        sum(where.split == "test" for where in places_of(manifest, most)) / most for most in (12, 36, 48)
    ]
    assert shares == pytest.approx([12 / 72] * 3, abs=0.03)


def test_what_is_read_of_a_face(shards):
    store = open_store(shards)
    faces = read_faces(store, places_of(store.manifest, 1000), processes=1)
    assert [face.key for face in faces[:2]] == ["train_0000", "train_0001"]
    _, landmarks = draw_face(0, 64)
    np.testing.assert_allclose(faces[0].landmarks_shard, landmarks, atol=1e-3)
    assert faces[0].face_size_px == pytest.approx(np.ptp(landmarks, axis=0).max() + 1, abs=0.01)
    assert faces[0].pose is not None
    assert abs(faces[0].pose.roll_deg) < 10


@pytest.mark.parametrize(
    ("top", "bottom", "left", "right"),
    [(0, 0, 0, 0), (10, 0, 0, 0), (0, 7, 5, 0), (3, 4, 5, 6), (64, 0, 0, 0)],
)
def test_the_border_outside_the_picture_is_measured(top, bottom, left, right):
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    crop[:top] = crop[64 - bottom :] = 0
    crop[:, :left] = crop[:, 64 - right :] = 0
    inside = max(0, 64 - top - bottom) * (64 - left - right)
    assert outside_share(crop) == pytest.approx(1 - inside / 64**2, abs=0.02 * (inside > 0))


def test_the_border_is_measured_through_jpeg_too(tmp_path):
    """Conversion knows where the picture ends, and the page finds it again in the stored crop."""
    faces = []
    for seed in range(12):
        picture, landmarks = draw_face(seed, 96)
        # Bright and cut tightly, so that the crop reaches past all four edges.
        cv2.imwrite(str(tmp_path / f"{seed}.png"), np.maximum(picture, 60))
        faces.append(
            FaceAnnotation(
                picture=PictureFile(tmp_path / f"{seed}.png"),
                landmarks_image=landmarks,
                scheme="ibug-68",
                face_box_image=FaceBox.around(landmarks),
                split="train",
                subset="drawn",
                source_file=f"{seed}.png",
                group=str(seed),
            )
        )
    data_set = DataSet(faces=faces, source="drawn", split_rule="all", licence="MIT", left_out={})
    convert(data_set, tmp_path / "out", ConvertOptions(processes=1, crop_size_px=128, crop_margin=1.0))
    store = open_store(tmp_path / "out")
    for face in read_faces(store, places_of(store.manifest, 100), processes=1):
        _, landmarks = draw_face(int(face.key), 96)
        scale = (face.landmarks_shard[45] - face.landmarks_shard[36])[0] / (landmarks[45] - landmarks[36])[0]
        edges = face.landmarks_shard[0] + (np.array([[-0.5, -0.5], [95.5, 95.5]]) - landmarks[0]) * scale
        inside = np.prod(np.diff(edges.clip(-0.5, 127.5), axis=0))
        assert face.outside_share == pytest.approx(1 - inside / 128**2, abs=0.03)


def test_sheets_show_each_subset_and_its_faces_evenly(shards):
    store = open_store(shards)
    faces = read_faces(store, places_of(store.manifest, 1000), processes=1)
    sheets = faces_for_sheets(faces, ["train", "test"])
    assert list(sheets) == [("train", "drawn"), ("test", "drawn")]
    keys = [face.key for face in sheets["train", "drawn"]]
    assert len(keys) == 36
    assert len(set(keys)) == 36
    assert keys[0] == "train_0000"
    assert keys[-1] >= "train_0057"
    assert len(sheets["test", "drawn"]) == 12


def test_ticks_are_round_and_inside():
    assert nice_ticks(-40.0, 40.0) == [-40, -20, 0, 20, 40]
    assert nice_ticks(0.0, 27.2) == [0, 5, 10, 15, 20, 25]
    for low, high in ((0.0, 1.0), (-3.3, 8.1), (0.0, 0.004), (1000.0, 90000.0)):
        ticks = nice_ticks(low, high)
        assert 3 <= len(ticks) <= 8
        assert ticks[0] >= low - 1e-9
        assert ticks[-1] <= high + 1e-9


def test_bars_are_as_high_as_their_shares():
    values = np.array([0.5] * 30 + [1.5] * 10 + [99.0] * 60)
    drawn = Page(histogram({"train": values}, linear_axis("number", 0.0, 4.0, 1.0), about="some numbers"))
    bars = drawn.all("rect")
    heights = [float(bar["height"] or 0) for bar in bars]
    # What lies beyond the axis counts in the last bin.
    assert heights[1] == pytest.approx(heights[0] / 3, abs=0.2)
    assert heights[2] == pytest.approx(2 * heights[0], abs=0.2)
    assert len(bars) == 3
    assert "train: 0 to 1, 30.0 % of the faces" in drawn.text


def test_an_outline_stands_for_the_second_group():
    groups = {"train": np.linspace(0, 4, 50), "test": np.linspace(0, 2, 10), "empty": np.zeros(0)}
    drawn = Page(histogram(groups, linear_axis("number", 0.0, 4.0, 1.0), about="x", mark=(2.0, "here")))
    assert len(drawn.all("polyline")) == 1
    assert "here" in drawn.text


def test_a_logarithmic_axis_doubles_in_equal_steps():
    axis = logarithmic_axis("px", 60.0, 1000.0, 4)
    assert axis.edges[0] <= 60
    assert axis.edges[-1] >= 1000
    steps = [axis.place(100.0 * 2**octave) for octave in range(4)]
    assert np.diff(steps) == pytest.approx(np.diff(steps)[0])
    assert set(axis.ticks) >= {100, 200, 500, 1000}


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (-0.0, "0"), (-12.34, "−12.3"), (1e-17, "1e−17")])  # noqa: RUF001
def test_numbers_read_well(value, text):
    assert number(value) == text
    assert percent(0.123) == "12\N{NO-BREAK SPACE}%"


def test_the_command_line(shards, tmp_path, capsys):
    program.main(["inspect", str(shards), "--out", str(tmp_path / "new" / "page.html"), "--processes", "1"])
    assert "open it in a browser" in capsys.readouterr().out
    assert (tmp_path / "new" / "page.html").stat().st_size < 3_000_000
    for arguments, match in (
        ([str(tmp_path / "nowhere"), "--out", "x.html"], "there are no shards here"),
        ([str(shards), "--out", "x.html", "--unusual", "0"], "--unusual is 0, the least is 1"),
        ([str(shards), "--out", str(shards)], "cannot be written"),
        ([str(shards)], "--out"),
    ):
        with pytest.raises(SystemExit) as caught:
            program.main(["inspect", *arguments])
        assert caught.value.code == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert match in told[-1]


def test_shards_without_a_face_or_with_a_broken_one_are_told(tmp_path, make_shards):
    make_shards(tmp_path / "empty", {"train": 0})
    with pytest.raises(InputError, match="the shards have no face"):
        inspect(open_store(tmp_path / "empty"), tmp_path / "page.html", OPTIONS)
    make_shards(tmp_path / "cut", {"train": 30}, shard_size=30)
    shard = tmp_path / "cut" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"train-000000\.tar"):
        inspect(open_store(tmp_path / "cut"), tmp_path / "page.html", OPTIONS)
    assert not (tmp_path / "page.html").exists()
