"""What the page tells of its model."""

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo_server import demo_module, write_network

pytest.importorskip("gradio", reason="Gradio is not installed")

model_tab = demo_module("model_tab")
models = demo_module("models")

RUN_URL = "https://wandb.ai/ann/faces/runs/1234abcd"


def facts_of(path: Path):
    served = models.Models.__new__(models.Models)
    served.path, served.name = path, "faces"
    served.main = models.load(path, detector=models.DetectorConfig(kind="whole"))
    return served.facts


@pytest.mark.parametrize("url", ["", "javascript:alert(1)", RUN_URL])
def test_the_training_is_linked_where_it_is_online(tmp_path, url):
    write_network(tmp_path / "faces.onnx", run_url=url)
    shown = model_tab.facts_html(facts_of(tmp_path / "faces.onnx"))
    assert (f'<a href="{RUN_URL}">' in shown) is (url == RUN_URL)
    assert "javascript" not in shown
    assert "made by hand" in shown


def test_who_asks_for_the_speed_before_it_is_measured_waits(tmp_path, monkeypatch):
    write_network(tmp_path / "faces.onnx")
    monkeypatch.setattr(models, "_detector", lambda _: models.DetectorConfig(kind="whole"))
    served = models.Models(str(tmp_path / "faces.onnx"))
    assert served.ms_per_face() is None
    warming = threading.Timer(0.2, served.warm_up)
    warming.start()
    assert served.ms_per_face(60) > 0
    warming.join()


def test_nobody_waits_for_a_speed_that_cannot_be_measured(tmp_path, monkeypatch, capsys):
    write_network(tmp_path / "faces.onnx")
    missing = models.DetectorConfig(kind="yunet", model=tmp_path / "none.onnx")
    monkeypatch.setattr(models, "_detector", lambda _: missing)
    served = models.Models(str(tmp_path / "faces.onnx"))
    served.warm_up()
    assert "none.onnx" in capsys.readouterr().err
    assert served._is_measured.is_set()
    assert served.ms_per_face() is None


@pytest.mark.parametrize("place", [".", "best"])
def test_a_run_tells_what_its_checkpoint_does(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps({"recipe": "ibug68-quick"}))
    (folder / "state.json").write_text(json.dumps({"step": 12, "run_url": RUN_URL, "manifest_hash": "0"}))
    told = models._told_of_checkpoint(tmp_path)
    assert told == {"recipe": "ibug68-quick", "step": 12, "run_url": RUN_URL}
    (folder / "state.json").unlink()
    assert models._told_of_checkpoint(tmp_path) == {"recipe": "ibug68-quick"}


def test_the_card_has_its_pictures_inside_it(tmp_path):
    for name in ("ced.png", "predictions.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\n---\n# Faces\n![A curve](ced.png) ![Faces](predictions.jpg) ![Gone](gone.png)\n"
        f"See [LICENSE](LICENSE) and [the curves]({RUN_URL}).\n"
    )
    text = model_tab.card_text(tmp_path)
    assert text.startswith("# Faces")
    assert '<img src="data:image/png;base64,' in text
    assert '<img src="data:image/jpeg;base64,' in text
    assert "gone.png" not in text
    # The page serves no file beside the card.
    assert f"See LICENSE and [the curves]({RUN_URL})." in text
