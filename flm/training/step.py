"""One update of the weights, and in how many parts it is computed."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from flm.augment import augment
from flm.data.samples import Batch
from flm.model.losses import landmark_loss
from flm.training.guards import rows_that_fit, telling_memory, with_visible_faults
from flm.training.optimization import learning_rate_at, set_learning_rate
from flm.training.profiling import span
from flm.training.run import Run


def train_step(run: Run, batch: Batch) -> dict[str, Tensor]:
    """One update of the weights; gives the parts of the loss and `gradient_norm`, on the device."""
    config, accelerator = run.config, run.accelerator
    # What a step draws depends on the step, so that going on needs no state of any generator.
    seed = np.random.SeedSequence([config.seed, run.step, accelerator.process_index])
    torch.manual_seed(int(seed.generate_state(1)[0]))
    set_learning_rate(run.optimizer.optimizer, learning_rate_at(run.step, run.steps, config.optimizer))
    run.trained.train()
    run.bad_samples.update(batch.bad_samples)
    parts = batch.to(accelerator.device).split(len(batch) // config.accumulation_steps)
    bad_steps = run.guards.bad_steps
    bad_steps.begin(run.network)
    with telling_memory(memory_advice(run, len(parts[0]))):
        losses = add_gradients(run, run.trained, parts)
        with span("optimizer"):
            largest = config.optimizer.max_gradient_norm or float("inf")
            norm = cast(Tensor, accelerator.clip_grad_norm_(run.trained.parameters(), largest))
            good = bad_steps.judge(norm, run.network, run.optimizer)
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.average.update(run.network, run.step, good)
    bad_steps.end(run.step + 1, batch.keys, good)
    return {**losses, "gradient_norm": norm}


def add_gradients(run: Run, network: nn.Module, parts: Sequence[Batch]) -> dict[str, Tensor]:
    """Add the gradient of the mean loss over parts of a batch, over all processes if `network` does so.

    Args:
        run: its recipe.
        network: bare, or as Accelerate wraps it.
        parts: of equal size, on the device.

    Returns:
        The mean of each part of the loss.
    """
    config, accelerator = run.config, run.accelerator
    totals: dict[str, Tensor] = {}
    for part in parts:
        run.guards.heartbeat.beat("computes a loss")
        with span("augmentation"):
            faces = augment(part, config.augment, size_px=config.model.input_size_px, seed=config.seed)
        with contextlib.nullcontext() if part is parts[-1] else accelerator.no_sync(network):
            with span("forward"):
                found = network(faces.images)
                losses = landmark_loss(found, faces.landmarks_unit, faces.valid, config.loss)
            run.guards.heartbeat.beat("computes a gradient")
            with span("backward"):
                accelerator.backward(with_visible_faults(losses["total"]) / len(parts))
        for name, value in losses.items():
            totals[name] = totals.get(name, 0) + value.detach() / len(parts)
    return totals


def memory_advice(run: Run, rows: int) -> str:
    """What to do when so many rows at a time are too many."""
    config = run.config
    return (
        f"{rows} faces at a time in each process (--batch-size {config.batch_size} over "
        f"{run.place.num_processes} processes, --accumulation-steps {config.accumulation_steps}); give "
        "--auto-batch-size, more --accumulation-steps, or a smaller --batch-size or --model.input-size-px"
    )


def fit_into_memory(run: Run) -> None:
    """`--auto-batch-size`: more and smaller parts of a batch until they fit, tried before the first step.

    Every process tries on its own, without a word to the others; the largest number of parts holds for all.
    """
    device, network = run.accelerator.device, run.network
    batch = next(run.training_batches()).to(device)
    run.guards.bad_steps.begin(network)
    # What the optimizer keeps of each weight comes with the first update only.
    kept = [torch.empty_like(weight) for weight in network.parameters() for _ in range(2)]
    network.train()

    def attempt(rows: int) -> None:
        network.zero_grad()
        # The second part finds the gradient of the first in memory.
        add_gradients(run, network, batch.split(rows)[:2])

    rows = rows_that_fit(attempt, len(batch) // run.config.accumulation_steps)
    del kept
    network.zero_grad()
    run.guards.bad_steps.undo(network)
    parts = max(gather_object([len(batch) // rows]))
    if parts != run.config.accumulation_steps and run.accelerator.is_main_process:
        print(f"--auto-batch-size: {parts} parts a step, of {len(batch) // parts} faces in each process")
    run.config = dataclasses.replace(run.config, accumulation_steps=parts)
