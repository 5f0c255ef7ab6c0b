"""Jobs for clusters and clouds, as far as they can be tried without: scripts with stand-ins, and fields."""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import REPOSITORY
from torch.distributed.run import get_args_parser
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from flm.command_line import parse_config
from flm.errors import HANG_EXIT_CODE, PREEMPTED_EXIT_CODE, USER_MISTAKE_EXIT_CODE
from flm.fields import flat_fields, to_fields
from flm.recipes import recipe_named

LAUNCH = REPOSITORY / "launch"
SBATCH = LAUNCH / "slurm.sbatch"


def read(name: str) -> Any:
    return yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))


def directives() -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SBATCH.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == SBATCH.read_text(encoding="utf-8").count("\n#SBATCH")
    return dict(found)


def test_sbatch_directives():
    known = {
        "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue",
        "open-mode", "output",
    }  # fmt: skip
    given = directives()
    assert given.keys() == known
    assert given["requeue"] == ""
    # One launcher a machine, which starts the processes of all its GPUs.
    assert given["ntasks-per-node"] == "1"
    # A requeued job goes on in the same file.
    assert given["open-mode"] == "append"
    hours, minutes, seconds = map(int, given["time"].split(":"))
    to, number, ahead_s = re.fullmatch(r"(B):(USR1)@(\d+)", given["signal"]).groups()
    assert (to, number) == ("B", "USR1")
    shutdown_s = int(re.search(r"PET_SHUTDOWN_TIMEOUT=(\d+)", SBATCH.read_text())[1])
    assert shutdown_s < int(ahead_s) < 3600 * hours + 60 * minutes + seconds


def test_torchrun_takes_what_the_scripts_set(monkeypatch):
    settings = re.search(r"^export (PET_\S+ PET_\S+)$", SBATCH.read_text(encoding="utf-8"), re.MULTILINE)[1]
    for setting in settings.split():
        monkeypatch.setenv(*setting.split("="))
    arguments = get_args_parser().parse_args(["-m", "flm.train"])
    assert arguments.signals_to_handle.split(",")[-1] == "SIGUSR1"
    assert arguments.shutdown_timeout == 240


def stand_ins(folder: Path, **programs: str) -> Path:
    """Programs of a cluster, as one machine has them; `scontrol` writes what it is asked for to `asked`."""
    folder.mkdir()
    programs = {
        "srun": 'while [[ $1 == --* ]]; do shift; done\nSLURM_NODEID=0 exec "$@"',
        "scontrol": f"""
          case "$1 $2" in
            "show hostnames") echo localhost ;;
            "show job") echo "JobId=1 JobState=$(cat {folder}/state 2>/dev/null || echo RUNNING)" ;;
            *) echo "$@" >> {folder}/asked ;;
          esac""",
        **programs,
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def sbatch(bin_folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """The script as SLURM starts it."""
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_GPUS_ON_NODE": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", SBATCH, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


SAVES = 'mkdir -p {run}; ln -sfn checkpoints/step_{step} {run}/last; echo "$@" > {run}/arguments'
WAITS = "trap 'kill $!; {then}; exit 1' USR1; touch {run}/waits; sleep 60 & wait"


@pytest.mark.parametrize(
    ("launcher", "is_signalled", "code", "is_requeued"),
    [
        (SAVES.format(run="{run}", step=1), False, 0, False),
        (f"{SAVES.format(run='{run}', step=1)}; exit 1", False, 0, True),
        ("exit 1", False, 1, False),
        ("exit 75", False, 0, True),
        (f"{SAVES.format(run='{run}', step=1)}; exit 2", False, 2, False),
        (WAITS.replace("{then}", SAVES.format(run="{run}", step=2)), True, 0, True),
        (WAITS.replace("{then}", "true"), True, 0, True),
    ],
    ids=[
        "at its end",
        "fell after a checkpoint",
        "fell at once",
        "asks for it",
        "mistake after a checkpoint",
        "saved when signalled",
        "signalled early",
    ],
)
def test_sbatch_requeues_what_is_to_go_on(tmp_path, launcher, is_signalled, code, is_requeued):
    run = tmp_path / "run"
    run.mkdir()
    programs = stand_ins(tmp_path / "bin", accelerate=launcher.replace("{run}", str(run)))
    script = sbatch(programs, "quickstart", run, "--steps", "3")
    if is_signalled:
        wait_for(run / "waits", script)
        script.send_signal(signal.SIGUSR1)
    said, _ = script.communicate(timeout=60)
    assert script.returncode == code, said
    asked = programs / "asked"
    assert (asked.read_text() if asked.exists() else "") == (
        f"requeue {os.getpid()}\n" if is_requeued else ""
    )
    assert ("requeued" in said) == is_requeued
    if (run / "arguments").exists():
        words = (run / "arguments").read_text().split()
        resolved, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[1:]))
        assert (resolved.num_machines, resolved.num_processes, resolved.machine_rank) == (1, 2, 0)
        assert resolved.max_restarts == 3
        assert resolved.training_script_args == ["quickstart", "--out", str(run), "--steps", "3"]


def wait_for(path: Path, process: subprocess.Popen[str], deadline_s: float = 200) -> None:
    end = time.monotonic() + deadline_s
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, path
        time.sleep(0.02)


def test_sbatch_tells_its_arguments(tmp_path):
    script = sbatch(stand_ins(tmp_path / "bin"), "quickstart")
    said, _ = script.communicate(timeout=60)
    assert script.returncode == 2
    assert said.startswith("error: expected RECIPE RUN")


def test_sbatch_leaves_a_cancelled_job(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    saves = SAVES.format(run=run, step=1)
    programs = stand_ins(tmp_path / "bin", accelerate=WAITS.format(then=saves, run=run))
    script = sbatch(programs, "quickstart", run)
    wait_for(run / "waits", script)
    (programs / "state").write_text("CANCELLED")
    script.send_signal(signal.SIGTERM)
    script.communicate(timeout=60)
    assert script.returncode == 1
    assert (run / "last").is_symlink()
    assert not (programs / "asked").exists()


@pytest.mark.multiprocess
@pytest.mark.slow
def test_sbatch_with_a_real_run_that_is_signalled_and_goes_on(make_shards, tmp_path):
    make_shards(tmp_path / "data", {"train": 30, "validation": 7}, shard_size=8)
    programs, run = stand_ins(tmp_path / "bin"), tmp_path / "run"
    fields = "--batch-size 8 --model.input-size-px 64 --tracking.tracker none --eval-every-steps 1000"
    arguments = ["quickstart", run, "--data", tmp_path / "data", *fields.split()]
    script = sbatch(programs, *arguments, "--steps", "4000", "--checkpoint.every-steps", "2")
    wait_for(run / "last", script)
    script.send_signal(signal.SIGUSR1)
    said, _ = script.communicate(timeout=200)
    assert script.returncode == 0, said
    assert (programs / "asked").read_text() == f"requeue {os.getpid()}\n"
    step = int((run / "last").resolve().name.removeprefix("step_"))
    assert 2 <= step < 4000
    (programs / "asked").unlink()
    script = sbatch(programs, *arguments, "--steps", str(step + 2))
    said, _ = script.communicate(timeout=200)
    assert script.returncode == 0, said
    assert f"steps {step} to {step + 2} · 2 processes" in said
    assert not (programs / "asked").exists()


KUBERNETES = {
    # Of Kubeflow Trainer's API trainer.kubeflow.org/v1alpha1, JobSet's v1alpha2 and Kubernetes' batch/v1 and
    # core/v1: the fields that the file uses, each with what is inside. `None` is a plain value.
    "TrainingRuntime": {
        "mlPolicy": {"numNodes": None, "torch": {}},
        "template": {
            "spec": {
                "failurePolicy": {
                    "maxRestarts": None,
                    "rules": [
                        {
                            "name": None,
                            "action": None,
                            "onJobFailureReasons": [None],
                            "onJobFailureMessagePatterns": [None],
                        }
                    ],
                },
                "replicatedJobs": [
                    {
                        "name": None,
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": None}},
                            "spec": {
                                "backoffLimit": None,
                                "podFailurePolicy": {
                                    "rules": [
                                        {
                                            "action": None,
                                            "onPodConditions": [{"type": None, "status": None}],
                                            "onExitCodes": {
                                                "containerName": None,
                                                "operator": None,
                                                "values": [None],
                                            },
                                        }
                                    ]
                                },
                                "template": {
                                    "spec": {
                                        "restartPolicy": None,
                                        "terminationGracePeriodSeconds": None,
                                        "containers": [
                                            {
                                                "name": None,
                                                "image": None,
                                                "volumeMounts": [{"name": None, "mountPath": None}],
                                            }
                                        ],
                                        "volumes": [
                                            {
                                                "name": None,
                                                "persistentVolumeClaim": {"claimName": None},
                                                "emptyDir": {"medium": None, "sizeLimit": None},
                                            }
                                        ],
                                    }
                                },
                            },
                        },
                    }
                ],
            }
        },
    },
    "TrainJob": {
        "runtimeRef": {"apiGroup": None, "kind": None, "name": None},
        "trainer": {
            "image": None,
            "numNodes": None,
            "numProcPerNode": None,
            "resourcesPerNode": {
                "requests": {"cpu": None, "memory": None, "nvidia.com/gpu": None},
                "limits": {"nvidia.com/gpu": None},
            },
            "env": [{"name": None, "value": None}],
            "command": [None],
            "args": [None],
        },
    },
}


def check_known(value: Any, known: Any, path: str) -> None:
    if isinstance(known, dict):
        assert isinstance(value, dict), path
        assert value.keys() <= known.keys(), path
        for name, inner in value.items():
            check_known(inner, known[name], f"{path}.{name}")
    elif isinstance(known, list):
        assert isinstance(value, list), path
        for inner in value:
            check_known(inner, known[0], path)
    else:
        assert isinstance(value, str | int), path


def kubernetes() -> tuple[dict[str, Any], dict[str, Any]]:
    return tuple(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8")))


def test_kubernetes_fields():
    documents = kubernetes()
    assert [document["kind"] for document in documents] == ["TrainingRuntime", "TrainJob"]
    for document in documents:
        assert document["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
        check_known(document["spec"], KUBERNETES[document["kind"]], document["kind"])


def test_kubernetes_parts_fit_each_other(monkeypatch):
    runtime, job = kubernetes()
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["runtimeRef"]["kind"] == runtime["kind"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    # Kubernetes refuses a podFailurePolicy with another restartPolicy; Trainer looks for this name and label.
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert replicated["name"] == pod["containers"][0]["name"] == "node"
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    trainer = job["spec"]["trainer"]
    environment = {entry["name"]: entry["value"] for entry in trainer["env"]}
    assert int(environment["PET_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    gpus = trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert str(trainer["numProcPerNode"]) == gpus == trainer["resourcesPerNode"]["requests"]["nvidia.com/gpu"]
    # As Trainer sets them, which a TrainJob may not.
    theirs = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "8", "PET_NODE_RANK": "1", "PET_MASTER_PORT": "29400"}
    assert not theirs.keys() & environment.keys()
    resolved = resolved_of(
        trainer["args"][0], {**environment, **theirs, "PET_MASTER_ADDR": "flm-node-0-0.flm"}
    )
    assert (resolved.num_machines, resolved.num_processes, resolved.machine_rank) == (2, 16, 1)
    assert (resolved.main_process_ip, resolved.main_process_port) == ("flm-node-0-0.flm", 29400)
    recipe, *flags = resolved.training_script_args
    parse_config(recipe_named(recipe), flags, program="flm train")


def test_kubernetes_starts_no_mistake_again():
    runtime, _ = kubernetes()
    spec = runtime["spec"]["template"]["spec"]
    (replicated,) = spec["replicatedJobs"]
    disrupted, mistaken = replicated["template"]["spec"]["podFailurePolicy"]["rules"]
    assert disrupted["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert mistaken["onExitCodes"]["values"] == [USER_MISTAKE_EXIT_CODE]
    # As Kubernetes words it; https://github.com/kubernetes-sigs/jobset has the patterns.
    for index, action in enumerate(("RestartJobSetAndIgnoreMaxRestarts", "FailJobSet")):
        said = f"failed with exit code 2 matching FailJob rule at index {index}"
        (rule,) = [
            rule
            for rule in spec["failurePolicy"]["rules"]
            if re.search(rule["onJobFailureMessagePatterns"][0], said)
        ]
        assert rule["action"] == action


def resolved_of(script: str, environment: dict[str, str]) -> argparse.Namespace:
    """What `accelerate launch` at the end of a shell script is given, as the shell and Accelerate read it."""
    show = 'accelerate() { printf "%s\\n" "$@"; }\n'
    said = subprocess.run(
        ["bash", "-euc", show + script.replace("exec accelerate", "accelerate")],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    ).stdout.splitlines()
    return _validate_launch_command(launch_command_parser().parse_args(said[1:]))[0]


def test_skypilot_fields(tmp_path):
    task = read("skypilot.yaml")
    # Of SkyPilot 0.14's task schema.
    known = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run"}
    assert task.keys() <= known
    assert task["resources"].keys() <= {"accelerators", "use_spot", "job_recovery", "disk_size", "infra"}
    assert task["resources"]["job_recovery"].keys() <= {
        "strategy",
        "max_restarts_on_errors",
        "recover_on_exit_codes",
    }
    again = [PREEMPTED_EXIT_CODE, HANG_EXIT_CODE]
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == again
    assert all(re.fullmatch(r"[A-Z0-9-]+:8", name) for name in task["resources"]["accelerators"])
    (mount,) = task["file_mounts"].values()
    assert mount.keys() <= {"name", "source", "store", "persistent", "mode"}
    assert mount["mode"] in ("MOUNT", "COPY", "MOUNT_CACHED")
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True, timeout=20)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not on this machine")
def test_skypilot_keeps_the_run_in_the_bucket_and_takes_it_back(tmp_path):
    task = read("skypilot.yaml")
    (bucket,) = task["file_mounts"]
    # The run goes on from what it finds, and makes the next checkpoint.
    launcher = """
      while [[ $1 != --out ]]; do shift; done; run=$2
      step=$(($(cat "$run/last/step" 2>/dev/null || echo 0) + 1))
      mkdir -p "$run/checkpoints/step_$step"; echo "$step" > "$run/checkpoints/step_$step/step"
      ln -sfn "checkpoints/step_$step" "$run/last"
      [[ -L $run/best ]] || ln -s "checkpoints/step_$step" "$run/best"
      exit 1"""
    programs = stand_ins(tmp_path / "bin", accelerate=launcher)
    script = task["run"].replace("source .venv/bin/activate", "").replace(bucket, str(tmp_path / "bucket"))
    for start in (1, 2, 3):
        home = tmp_path / f"machine{start}"
        home.mkdir()
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            env={
                "PATH": f"{programs}:{os.environ['PATH']}",
                "HOME": str(home),
                "SKYPILOT_TASK_ID": "job",
                "SKYPILOT_NUM_GPUS_PER_NODE": "8",
                **task["envs"],
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1, done.stderr
        run = home / "runs" / "job"
        assert (run / "last" / "step").read_text() == f"{start}\n"
        assert (run / "best").readlink() == Path("checkpoints/step_1")
        assert not any(path.is_symlink() for path in (tmp_path / "bucket").rglob("*"))


def parameters_of(sweep: dict[str, Any]) -> dict[str, list[Any]]:
    """The values at the ends of each parameter's range."""
    return {
        name: parameter.get("values") or [parameter["min"], parameter["max"]]
        for name, parameter in sweep["parameters"].items()
    }


def test_sweep_is_of_fields_and_its_values_are_understood():
    sweep = read("sweep.yaml")
    assert sweep.keys() <= {"program", "method", "metric", "parameters", "command", "name", "early_terminate"}
    fields = flat_fields(to_fields(recipe_named("ibug68-quick")))
    for name, values in parameters_of(sweep).items():
        assert name in fields
        for value in values:
            arguments = create_sweep_command_args({"args": {name: {"value": value}}})["args"]
            config = parse_config(recipe_named("ibug68-quick"), arguments, program="flm train")
            assert flat_fields(to_fields(config))[name] == value
    assert sweep["metric"] == {"name": "validation/nme_pct", "goal": "minimize"}


def test_sweep_starts_a_trial_in_a_folder_of_its_own():
    sweep = read("sweep.yaml")
    chosen = {name: {"value": values[0]} for name, values in parameters_of(sweep).items()}
    macros = {"${env}": ["/usr/bin/env"], "${args}": create_sweep_command_args({"args": chosen})["args"]}
    command = [word for chunk in sweep["command"] for word in macros.get(chunk, [chunk])]
    env, shell, option, script, *rest = command
    assert (env, shell, option) == ("/usr/bin/env", "sh", "-c")
    given = " ".join(shlex.quote(word) for word in rest[1:])
    resolved = resolved_of(f"set -- {given}\n{script}", {"WANDB_RUN_ID": "abc"})
    recipe, *flags = resolved.training_script_args
    config = parse_config(recipe_named(recipe), flags, program="flm train")
    assert config.out == Path("runs/sweep/abc")
    assert all(flat_fields(to_fields(config))[name] == value["value"] for name, value in chosen.items())
