"""What recipes are compared with: one change at a time.

A variation is a list of flags of `flm train`, or of `flm evaluate` on the runs of the base. Every run sees
the same number of faces, unless that is the change.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flm.command_line import parse_config
from flm.fields import flat_fields, to_fields
from flm.recipes import recipe_named

BASE = "base"
EVALUATIONS = 5
"""Of each run; the length of all runs is a multiple of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What every run has."""

    recipe: str
    steps: int

    @property
    def batch_size(self) -> int:
        """Faces of a step."""
        return recipe_named(self.recipe).batch_size

    @classmethod
    def of(cls, recipe: str, faces: int) -> "Budget":
        """About so many faces of a recipe's batches."""
        steps = faces // recipe_named(recipe).batch_size // EVALUATIONS * EVALUATIONS
        return cls(recipe=recipe, steps=max(EVALUATIONS, steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """One change."""

    axis: str
    """What is compared."""
    name: str
    flags: tuple[str, ...] = ()
    """Of the training, beside the recipe's and the budget's."""
    length: int = 1
    """How many times the budget's steps."""
    evaluation: tuple[str, ...] = ()
    """Flags of `flm evaluate`, which measures the base's run then, instead of a run of its own."""


Changes = dict[str, dict[str, tuple[str, ...]]]
"""Flags by axis and name."""

PRE_TRAINING = "pre-training"
BACKBONE_RATE = "backbone's learning rate"


def _augment(**fields: int | float) -> tuple[str, ...]:
    words = ((f"--augment.{name.replace('_', '-')}", f"{value:g}") for name, value in fields.items())
    return tuple(itertools.chain.from_iterable(words))


NETWORKS: Changes = {
    "head": {
        "heatmap, stride 4": ("--model.heatmap-stride", "4"),
        "heatmap, stride 8": ("--model.heatmap-stride", "8"),
        "regression": ("--model.head", "regression"),
        "SimCC": ("--model.head", "simcc", "--loss.kind", "simcc"),
    },
    "loss": {
        kind.replace("_", " "): ("--loss.kind", kind)
        for kind in ("l1", "smooth_l1", "wing", "adaptive_wing", "star")
    },
    "input": {f"{side} px": ("--model.input-size-px", str(side)) for side in (96, 128, 192, 256)},
    "head's width": {f"{width}": ("--model.head-channels", str(width)) for width in (64, 128, 256)},
}

AUGMENTATIONS: Changes = {
    "augmentation": {
        "none": _augment(
            rotation_deg=0, scale=0, translation=0, mirror_probability=0,
            brightness=0, contrast=0, saturation=0, hue_deg=0, grey_probability=0,
            gamma_probability=0, blur_probability=0, noise_probability=0, jpeg_probability=0,
            occlusion_probability=0,
        ),
        "no mirror": _augment(mirror_probability=0),
        "mild": _augment(
            rotation_deg=15, scale=0.1, translation=0.03, hue_deg=0, grey_probability=0,
            gamma_probability=0, blur_probability=0, noise_probability=0, jpeg_probability=0,
        ),
        "strong": _augment(
            rotation_deg=30, scale=0.2, translation=0.07, hue_deg=20, grey_probability=0.2,
            gamma_probability=0.3, blur_probability=0.3, noise_probability=0.2, jpeg_probability=0.2,
        ),
    },
    "occlusion": {
        "none": _augment(occlusion_probability=0),
        "much": _augment(occlusion_probability=0.4, occlusion_side_max=0.4),
    },
}  # fmt: skip

OPTIMIZATIONS: Changes = {
    "moving average": {
        f"decay {decay}": ("--optimizer.ema-decay", decay) for decay in ("0", "0.99", "0.998")
    },
    "learning rate": {rate: ("--optimizer.learning-rate", rate) for rate in ("0.001", "0.003", "0.006")},
    BACKBONE_RATE: {
        f"x {factor}": ("--optimizer.backbone-factor", factor) for factor in ("0.1", "0.33", "1.0")
    },
}


def variations(
    recipe: str, *, weights: Path | None = None, init_from: Mapping[str, Path] | None = None
) -> tuple[Variation, ...]:
    """All that is compared with a recipe; what would not change it is left out.

    Args:
        recipe: its name.
        weights: a file of ImageNet weights of its backbone; the hub's if None.
        init_from: checkpoints that training may begin with, by what they were trained on.
    """
    base = recipe_named(recipe)
    of_hub = ("--model.weights", str(weights)) if base.model.pretrained and weights is not None else ()
    starts = {name: ("--init-from", str(path)) for name, path in (init_from or {}).items()}
    if base.model.pretrained:
        starts = {"none": ("--model.no-pretrained",), **starts}
    table = {**NETWORKS, **AUGMENTATIONS, **OPTIMIZATIONS, PRE_TRAINING: starts}
    if not base.model.pretrained:
        del table[BACKBONE_RATE]
    before = flat_fields(to_fields(base))
    changed = [
        Variation(axis=axis, name=name, flags=flags if axis == PRE_TRAINING else (*of_hub, *flags))
        for axis, rows in table.items()
        for name, flags in rows.items()
        if flat_fields(to_fields(parse_config(base, flags, program="flm train"))) != before
    ]
    return (
        Variation(axis=BASE, name=f"`{recipe}`", flags=of_hub),
        *changed,
        Variation(axis="length", name="twice the steps", flags=of_hub, length=2),
        Variation(axis="evaluation", name="mirror average", evaluation=("--mirror-average",)),
        Variation(axis="evaluation", name="second pass", evaluation=("--second-pass",)),
    )
