"""What is measured of a GPU, in a small form and mostly on the processor; and the script around it."""

import json
import os
import subprocess

import pytest
import torch
from conftest import REPOSITORY
from pages import block

from flm.bench.figures import Figure
from flm.bench.gpu import check as gpu_check
from flm.bench.gpu.check import bench_gpu, feeding
from flm.bench.gpu.measures import GpuLength, NotHereError, training_flops
from flm.bench.gpu.report import Check, GpuReport, checks_of_tests
from flm.cli import main
from flm.errors import InputError
from flm.model.network import ModelConfig

SCRIPT = REPOSITORY / "launch" / "gpu_check.sh"
KIND = "cuda" if torch.cuda.is_available() else "cpu"

TESTS = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.test_gpu" name="test_a_step[bf16-cuda]" time="1.25"/>
<testcase classname="tests.test_gpu" name="test_a_step[fp16-cuda]" time="0.5">
  <failure message="AssertionError: assert 1 == 2&#10;more">all of it</failure></testcase>
<testcase name="test_no_setup" time="0"><error message="no setup">x</error></testcase>
<testcase classname="tests.test_gpu" name="test_a_decoder" time="0">
  <skipped type="pytest.skip" message="needs a CUDA device">x</skipped></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def shards(make_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 70, "validation": 4})
    return folder


@pytest.mark.multiprocess
@pytest.mark.slow
def test_everything_is_measured(shards, tmp_path, capsys):
    out = tmp_path / "gpu_check.json"
    words = ["--data", str(shards), "--json", str(out), "--recipe", "quickstart", "--limit-s", "1e6"]
    main(["bench", "gpu", *words, "--quick"])
    told = json.loads(out.read_text())
    assert told["device"]["kind"] == KIND
    assert told["versions"]["torch"] == torch.__version__
    assert ("no GPU here" in told["summary"]) == (KIND == "cpu")
    assert told["summary"] in capsys.readouterr().out
    statuses = {check["name"]: check["status"] for check in told["checks"]}
    assert statuses.keys() == gpu_check.SUBJECTS.keys()
    # It is begun only with minutes left.
    assert statuses.pop("measuring compiled training") in ("skipped", "passed")
    assert set(statuses.values()) == {"passed"}, told["checks"]
    figures = {(figure["subject"], figure["side"]): figure for figure in told["figures"]}
    assert all(figure["value"] > 0 for name, figure in figures.items() if "waiting" not in name[1])
    assert figures["training", "time not waiting for data"]["value"] <= 100
    assert figures["training", "share of that peak"]["unit"] == "%"
    assert {subject for subject, _ in figures} == {
        *("augmentation", "training", "loader", "loader beside training"),
        *("landmarks of one face", "landmarks of 16 faces at once"),
    }
    assert "quickstart" in told["how"]


def test_how_tests_ended(tmp_path):
    path = tmp_path / "tests.xml"
    path.write_text(TESTS)
    assert checks_of_tests(path) == [
        Check(name="a step [bf16-cuda]", status="passed", seconds=1.25),
        Check(
            name="a step [fp16-cuda]", status="failed", reason="AssertionError: assert 1 == 2", seconds=0.5
        ),
        Check(name="no setup", status="failed", reason="no setup"),
        Check(name="a decoder", status="skipped", reason="needs a CUDA device"),
    ]
    for missing in (tmp_path / "none.xml", SCRIPT):
        with pytest.raises(InputError, match=r"no results of tests .* write them with pytest --junit-xml"):
            checks_of_tests(missing)


def test_what_fails_is_told_and_ends_nothing_else(shards, tmp_path, monkeypatch, capsys):
    def broken(_):
        raise RuntimeError("CUDA error: no kernel image\nlong text")

    def absent(_):
        raise NotHereError("has no such thing")

    figure = Figure(subject="s", side="here", unit="ms", value=1.5)
    subjects = {"one": broken, "two": absent, "three": lambda _: [figure]}
    monkeypatch.setattr(gpu_check, "SUBJECTS", subjects)
    out, tests = tmp_path / "check.json", tmp_path / "tests.xml"
    tests.write_text(TESTS)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "gpu", "--data", str(shards), "--json", str(out), "--tests", str(tests)])
    assert stop.value.code == 1
    told = json.loads(out.read_text())
    assert [check["status"] for check in told["checks"][4:]] == ["failed", "skipped", "passed"]
    assert told["checks"][4]["reason"] == "RuntimeError: CUDA error: no kernel image"
    assert told["figures"] == [figure.to_json()]
    lines = capsys.readouterr().out.splitlines()
    assert "failed   one: RuntimeError: CUDA error: no kernel image" in lines
    assert "skipped  two: has no such thing" in lines
    assert "s, here: 1.5 ms" in lines
    assert "2 checks passed, 3 failed, 2 skipped" in lines[-2]


def test_nothing_is_begun_when_the_time_is_over(shards, tmp_path):
    report = bench_gpu(shards, tmp_path / "check.json", limit_s=0.0, length=GpuLength.quick())
    assert {check.status for check in report.checks} == {"skipped"}
    assert report.checks[0].reason == "no time left of 0 s"
    assert not report.has_failed


def test_mistakes_are_told_in_one_line(shards, tmp_path, capsys):
    for words in (["--data", str(tmp_path)], ["--data", str(shards), "--recipe", "wflw98-xception"]):
        with pytest.raises(SystemExit) as stop:
            main(["bench", "gpu", *words, "--json", str(tmp_path / "check.json")])
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_report_without_a_gpu_says_so():
    report = GpuReport.begin(torch.device("cpu"))
    assert report.summary().startswith("no GPU here: 0 checks passed")
    report.device = {"kind": "cuda", "name": "NVIDIA X"}
    assert report.summary() == "NVIDIA X: 0 checks passed, 0 failed, 0 skipped"


def test_the_loader_is_compared_with_training():
    trained = Figure(subject="training", side="on one resident batch", unit="img/s", value=500.0)
    decoded = Figure(subject="loader", side="decoding on processors", unit="faces/s", value=2000.0)
    (figure,) = feeding([trained, decoded])
    assert (figure.value, figure.unit) == (4.0, "times")
    assert feeding([decoded]) == []


def test_operations_are_counted():
    # 0.51 GFLOP a face, says the recipe, and a backward pass is two forward passes.
    compact = ModelConfig(backbone="xception_compact_wide", head="heatmap", input_size_px=128)
    assert training_flops(compact) == pytest.approx(3 * 0.51e9, rel=0.02)


def test_the_readme_has_the_command():
    assert block("gpu").strip() == f"bash {SCRIPT.relative_to(REPOSITORY)}"


def run_script(*arguments, cwd, **environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=560,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--nonsense"], "--nonsense is unknown"), (["--data"], "--data needs a value")],
)
def test_the_script_tells_mistakes(tmp_path, arguments, message):
    done = run_script(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.multiprocess
@pytest.mark.slow
def test_the_script_runs_from_another_folder(shards, tmp_path):
    # Two of the tests, and measurements that say nothing.
    few = "-k nvjpeg or onnxruntime"
    quick = ["--", "--quick", "--recipe", "quickstart", "--limit-s", "1e6"]
    done = run_script("--data", shards, *quick, cwd=tmp_path, PYTEST_ADDOPTS=f"'{few}'")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "gpu_check.json").read_text())
    checks = {check["name"]: check for check in told["checks"]}
    assert checks["onnxruntime finds on a device what it finds on the processor [cpu]"]["status"] == "passed"
    assert "nvjpeg decodes as the cpu does" in checks
    if KIND == "cpu":
        assert checks["nvjpeg decodes as the cpu does"]["reason"] == "needs a CUDA device"
        assert "no GPU here" in done.stdout
