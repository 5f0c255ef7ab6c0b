"""Each knob has one owner, and who gives it to another is told whose it is."""

from dataclasses import fields

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from flm.errors import InputError
from flm.process.owners import (
    ENGINES,
    OWNED_BY_CONFIG,
    OWNED_BY_LAUNCHER,
    OWNED_BY_TORCHRUN,
    SAID_OTHERWISE,
    check_environment,
    check_flags,
)
from flm.recipes import recipe_named
from flm.train import main
from flm.training.config import TrainConfig


def options_of(parser) -> set[str]:
    return {
        option.removeprefix("--").replace("_", "-")
        for action in parser._actions
        for option in action.option_strings
    }


def test_what_is_the_launchers_is_an_option_of_it_and_no_field_of_ours():
    accelerate, torchrun = options_of(launch_command_parser()), options_of(get_args_parser())
    assert accelerate >= OWNED_BY_LAUNCHER
    assert torchrun >= OWNED_BY_TORCHRUN.keys()
    for option in OWNED_BY_TORCHRUN.values():
        assert option.split()[0].removeprefix("--").replace("_", "-") in accelerate
    ours = {field.name.replace("_", "-") for field in fields(TrainConfig)}
    assert not ours & (OWNED_BY_LAUNCHER | OWNED_BY_TORCHRUN.keys() | SAID_OTHERWISE.keys())
    for flag in (*OWNED_BY_CONFIG.values(), "--accumulation-steps"):
        assert flag.removeprefix("--") in ours


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--num-processes", "4"], "--num-processes: is the launcher's; give --num_processes to"),
        (["--num_processes=4"], "--num_processes: is the launcher's; give --num_processes to"),
        (["--mixed-precision", "bf16"], "--mixed-precision: is the launcher's; give --mixed_precision to"),
        (["--steps", "3", "--nnodes", "2"], "--nnodes: is the launcher's; give --num_machines to"),
        (["--gradient_accumulation_steps", "2"], "give --accumulation-steps instead"),
        (["--bf16"], "give accelerate launch --mixed_precision bf16 instead"),
    ],
)
def test_a_flag_of_the_launcher_is_told_whose_it_is(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["quickstart", *arguments])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert expected in lines[0]


def test_flags_of_the_recipe_pass():
    check_flags(["--steps", "3", "--optimizer.learning-rate=0.1", "--data", "num-processes", "--no-compile"])
    assert recipe_named("quickstart").accumulation_steps == 1


def test_what_a_launcher_sets_by_itself_passes():
    check_environment({"ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_FSDP": "false", "PATH": "/bin"})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "unset it and give --accumulation-steps"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "unset it and give --compile"),
        *((variable, "true", f"chose {engine}") for variable, engine in ENGINES.items()),
    ],
)
def test_what_a_launcher_would_win_with_is_refused(variable, value, expected):
    with pytest.raises(InputError, match=expected):
        check_environment({variable: value})
