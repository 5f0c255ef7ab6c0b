"""The answer to a picture: shapes where the landmarks are, and the files that are made of it."""

import csv
import html
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import draw_face
from demo_server import demo_module
from fake_faces import Steady

from flm.faces.pts_file import read_pts_file
from flm.geometry import FaceBox
from flm.inference.predictor import Predictor
from flm.landmarks import IBUG_68

pytest.importorskip("gradio", reason="Gradio is not installed")

overlay = demo_module("overlay")
stage = demo_module("stage")

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn():
    picture, landmarks = draw_face(4, 200)
    predictor = Predictor(Steady(landmarks, 200, np.diag([4e-4, 1e-4])))
    return picture, landmarks, predictor, predictor.predict(picture, [FaceBox.of_picture(200, 200)])


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def attribute(content: str, name: str) -> str:
    return html.unescape(re.search(rf" {name}=(['\"])(.*?)\1", content, re.DOTALL)[2])


def test_dots_are_on_the_landmarks(drawn):
    picture, landmarks, predictor, faces = drawn
    content = stage.answer(picture, faces, predictor)
    svg = parsed(re.search(r"<svg class=\"overlay\".*?</svg>", content, re.DOTALL)[0])
    assert svg.get("viewBox") == "-0.5 -0.5 200 200"
    circles = list(svg.iter(f"{SVG}circle"))
    places = [[float(circle.get("cx")), float(circle.get("cy"))] for circle in circles]
    np.testing.assert_allclose(places, landmarks, atol=0.01)
    assert [int(circle.get("data-point")) for circle in circles] == list(range(68))


def test_ellipses_hold_nine_tenths(drawn):
    _, _, _, faces = drawn
    record = stage.picture_record("p", "p", (200, 200), faces, IBUG_68)["faces"][0]
    svg = parsed(overlay.overlay(200, 200, [record], IBUG_68))
    for ellipse in svg.iter(f"{SVG}ellipse"):
        # Standard deviations of 4 and 2 px, and 90 % of a normal distribution within 2.146 of them.
        assert float(ellipse.get("rx")) == pytest.approx(8.58, abs=0.02)
        assert float(ellipse.get("ry")) == pytest.approx(4.29, abs=0.02)


def test_files_hold_what_the_page_shows(drawn, tmp_path):
    picture, landmarks, predictor, faces = drawn
    content = stage.answer(picture, faces, predictor, "mine")
    record = json.loads(attribute(content, "data-record"))
    np.testing.assert_allclose(record["faces"][0]["landmarks"], landmarks, atol=0.01)
    rows = list(csv.DictReader(io.StringIO(attribute(content, "data-csv"))))
    assert float(rows[0]["x36"]) == pytest.approx(landmarks[36, 0], abs=0.01)
    (text,) = json.loads(attribute(content, "data-pts"))
    (tmp_path / "a.pts").write_text(text)
    np.testing.assert_allclose(read_pts_file(tmp_path / "a.pts", IBUG_68), landmarks, atol=0.01)


def test_likely_wrong_faces_are_told(drawn):
    picture, _, predictor, faces = drawn
    record = stage.picture_record("p", "p", (200, 200), faces, IBUG_68)
    for score, is_calibrated, expected in ((0.2, True, True), (0.9, True, False), (0.2, False, None)):
        record["faces"][0]["score"] = score
        overlay.mark_doubtful(record["faces"], is_calibrated=is_calibrated)
        assert record["faces"][0]["likely_wrong"] is expected
        assert ("likely wrong" in stage.table(record["faces"])) is bool(expected)
    assert "likely wrong" not in stage.answer(picture, faces, predictor)


def test_a_name_cannot_write_into_the_page(drawn):
    picture, _, predictor, faces = drawn
    content = stage.answer(picture, faces, predictor, "'\"><script>alert(1)</script>")
    assert "<script" not in content


def test_a_large_picture_is_sent_back_smaller():
    assert max(stage.shown(np.zeros((100, 4000, 3), np.uint8)).shape) == stage.MOST_SHOWN_PX
    small = np.zeros((30, 40, 3), np.uint8)
    assert stage.shown(small) is small


def test_every_face_can_be_reached_by_keyboard(drawn):
    picture, _, predictor, faces = drawn
    content = stage.answer(picture, [*faces, *faces], predictor)
    assert content.count('role="button"') == 2
    assert content.count('class="crop"') == 2
    assert 'aria-label="Face 2, score' in content
