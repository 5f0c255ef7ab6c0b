"""Every source is a command with help; a mistake is one line."""

import pytest

from shards.__main__ import SOURCES, main


@pytest.mark.parametrize("source", SOURCES)
def test_help_of_each_source(source, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", source, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "--out PATH" in told
    assert "--crop-size-px INT" in told


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "synthetic"])
def test_a_source_that_is_not_there_is_one_line(source, tmp_path, capsys):
    missing = tmp_path / "missing"
    with pytest.raises(SystemExit) as stop:
        main(["convert", source, "--source", str(missing), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {missing}")
    assert not (tmp_path / "out").exists()
