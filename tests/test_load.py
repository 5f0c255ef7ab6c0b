"""Models by name: above all the one that comes with flm."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from flm.cli import main
from flm.errors import InputError
from flm.inference import load as load_module
from flm.inference.load import SHIPPED, find_model, load
from flm.landmarks import IBUG_68

DEMO = Path(__file__).parents[1] / "demo"
EXAMPLES = ("frown.jpg", "smile.jpg", "profile.jpg")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_shipped_model_sees_a_face_and_its_mirror_image_alike(name):
    picture = cv2.imread(str(DEMO / "examples" / name))[:, :, ::-1]
    height, width = picture.shape[:2]
    predictor = load()
    found = predictor.predict(picture)
    mirrored = predictor.predict(np.ascontiguousarray(picture[:, ::-1]))
    assert len(found) == len(mirrored) == 1
    landmarks = found[0].landmarks_image
    back = mirrored[0].landmarks_image[list(IBUG_68.mirror_permutation)] * [-1, 1] + [width - 1, 0]
    spread = np.ptp(landmarks, axis=0)
    assert (spread > [width / 6, height / 6]).all()
    assert np.linalg.norm(landmarks - back, axis=1).mean() < 0.03 * spread.max()
    # Eyes above the mouth, and the chin below it.
    assert landmarks[36:48, 1].max() < landmarks[48:68, 1].min() < landmarks[8, 1]


def test_it_is_small_and_says_what_it_may_be_used_for():
    model = find_model("default")
    assert model.stat().st_size <= 10_000_000
    assert "research only" in (model.parent / "README.md").read_text()
    assert load().calibration is not None


def test_without_a_model_one_has_to_be_named(tmp_path, monkeypatch, capsys):
    assert find_model("default").parent in SHIPPED
    monkeypatch.setattr(load_module, "SHIPPED", (tmp_path / "none",))
    with pytest.raises(InputError, match="no model comes with this flm; name one"):
        find_model("default")
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(DEMO / "examples"), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().err.startswith("error: no model comes with this flm")
