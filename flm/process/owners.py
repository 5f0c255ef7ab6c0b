"""Which knob is whose: machines, processes, precision, engine are the launcher's, all else TrainConfig's."""

from collections.abc import Mapping, Sequence

from flm.errors import InputError

OWNED_BY_LAUNCHER = {
    "num-processes", "num-machines", "machine-rank", "main-process-ip", "main-process-port", "gpu-ids",
    "mixed-precision", "max-restarts", "monitor-interval", "rdzv-backend", "rdzv-conf", "same-network",
    "config-file", "cpu", "multi-gpu", "use-fsdp", "use-deepspeed", "debug", "enable-cpu-affinity",
    "num-cpu-threads-per-process", "tee", "log-dir",
}  # fmt: skip
"""Options of `accelerate launch`, of which those that last stand in launch/*.yaml."""

OWNED_BY_TORCHRUN = {
    "nnodes": "--num_machines",
    "nproc-per-node": "--num_processes (over all machines)",
    "node-rank": "--machine_rank",
    "master-addr": "--main_process_ip",
    "master-port": "--main_process_port",
}
"""What torchrun calls them, by what `accelerate launch` does."""

SAID_OTHERWISE = {
    "gradient-accumulation-steps": "--accumulation-steps",
    "dynamo-backend": "--compile",
    "bf16": "accelerate launch --mixed_precision bf16",
    "fp16": "accelerate launch --mixed_precision fp16",
    "precision": "accelerate launch --mixed_precision bf16|fp16|no",
}
"""What other programs call them, by what is meant here."""

OWNED_BY_CONFIG = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--accumulation-steps",
    "ACCELERATE_DYNAMO_BACKEND": "--compile",
}
"""Settings of the launcher that would silently win over the configuration."""

ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Launchers set these to `true`. All of them split a network over processes."""


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse flags of the launcher among those of the recipe.

    Args:
        arguments: those of the recipe, without its name.

    Raises:
        InputError: one is not the recipe's; it says whose it is.
    """
    for argument in arguments:
        flag, _, _ = argument.partition("=")
        name = flag.removeprefix("--").replace("_", "-")
        if not flag.startswith("--"):
            continue
        if name in SAID_OTHERWISE:
            raise InputError(f"{flag}: give {SAID_OTHERWISE[name]} instead")
        if name in OWNED_BY_LAUNCHER or name in OWNED_BY_TORCHRUN:
            option = OWNED_BY_TORCHRUN.get(name, f"--{name.replace('-', '_')}")
            raise InputError(
                f"{flag}: is the launcher's; give {option} to `accelerate launch` ahead of `-m flm.train`, "
                "or in the file of launch/ that --config_file names"
            )


def check_environment(variables: Mapping[str, str]) -> None:
    """Refuse what a launcher set and the configuration owns, and engines that flm does not train with.

    Args:
        variables: of the environment.

    Raises:
        InputError: one of them is set.
    """
    for variable, flag in OWNED_BY_CONFIG.items():
        if variables.get(variable, "NO").upper() != "NO":
            raise InputError(f"the environment sets {variable}; unset it and give {flag} instead")
    for variable, engine in ENGINES.items():
        if variables.get(variable, "").lower() in ("true", "1"):
            raise InputError(
                f"accelerate launch: chose {engine}, which splits a network over processes; flm's fit on one "
                "GPU, take launch/multi_gpu.yaml"
            )
