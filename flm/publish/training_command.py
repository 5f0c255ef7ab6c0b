"""The command that trains a checkpoint again, out of its configuration."""

import shlex
from collections.abc import Mapping
from typing import Any

from flm.fields import flat_fields, to_fields
from flm.recipes import RECIPES

LAUNCH = "accelerate launch -m flm.train"

NOT_OF_THE_RESULT = (
    "schema_version", "recipe", "out", "resume", "tracking.", "checkpoint.", "guards.", "log_every_steps",
    "profile", "eval_batch_size", "accumulation_steps", "auto_batch_size", "loader.num_workers",
    "loader.decode", "loader.prefetch_batches", "loader.max_open_files", "loader.cache_dir",
    "loader.cache_gib",
)  # fmt: skip
"""Fields that others set as they like."""


def training_command(fields: Mapping[str, Any]) -> str | None:
    """The recipe, and a flag for each field that differs from it.

    Args:
        fields: of the configuration.

    Returns:
        None where the recipe is not one of flm's.
    """
    recipe = str(fields.get("recipe"))
    if recipe not in RECIPES:
        return None
    usual = flat_fields(to_fields(RECIPES[recipe]()))
    flags = [
        _flag(name, value)
        for name, value in flat_fields(fields).items()
        if name in usual and not name.startswith(NOT_OF_THE_RESULT) and value != usual[name]
    ]
    return " ".join([LAUNCH, recipe, *flags])


def _flag(name: str, value: object) -> str:
    *outer, last = name.replace("_", "-").split(".")
    if isinstance(value, bool):
        return "--" + ".".join([*outer, last if value else f"no-{last}"])
    words = value if isinstance(value, list) else [value]
    return " ".join(["--" + ".".join([*outer, last]), *(shlex.quote(str(word)) for word in words)])
