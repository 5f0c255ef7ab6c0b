"""Trainings that take seconds, and what they leave."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from flm.augment import AugmentConfig
from flm.data.loader import LoaderConfig
from flm.model.losses import LossConfig
from flm.model.network import ModelConfig
from flm.runlog.trackers import TrackingConfig
from flm.training.config import TrainConfig
from flm.training.optimization import OptimizerConfig


def tiny(data: Path, out: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        recipe="tiny",
        data=str(data),
        out=out,
        steps=6,
        batch_size=8,
        eval_batch_size=8,
        model=ModelConfig(backbone="xception_compact_slim", input_size_px=64, head_channels=32, dropout=0.2),
        loss=LossConfig(kind="l1"),
        augment=AugmentConfig(
            rotation_deg=10.0, mirror_probability=0.5, brightness=0.2, noise_probability=0.5
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9),
        loader=LoaderConfig(num_workers=0),
        tracking=TrackingConfig(tracker="none"),
        log_every_steps=1,
        eval_every_steps=3,
    )
    return dataclasses.replace(config, **changes)


def log_of(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights_of(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return {
        **load_file(run / which / "model.safetensors"),
        **{f"training.{k}": v for k, v in load_file(run / which / "training.safetensors").items()},
    }


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
