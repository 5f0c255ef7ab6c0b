"""Started by a launcher: writes what each step of a run reads and what its loss is, one file a process."""

import dataclasses
import json
import sys
from pathlib import Path

from flm.recipes import recipe_named
from flm.train import train_step
from flm.training.run import build

data, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
most_bad = int(sys.argv[4]) if len(sys.argv) > 4 else 0
recipe = recipe_named("quickstart")
config = dataclasses.replace(
    recipe,
    data=str(data),
    out=out,
    steps=steps,
    batch_size=12,
    model=dataclasses.replace(recipe.model, input_size_px=64, head_channels=16),
    loader=dataclasses.replace(recipe.loader, num_workers=1, window_shards=2, max_bad_samples=most_bad),
    tracking=dataclasses.replace(recipe.tracking, tracker="none"),
)
run = build(config)
lines = []
for batch in run.training_batches():
    losses = train_step(run, batch)
    loss = run.accelerator.reduce(losses["total"], reduction="mean").item()
    lines.append({"step": run.step, "keys": batch.keys, "bad": batch.bad_samples, "loss": loss})
    run.step += 1
(out / f"process{run.accelerator.process_index}of{run.accelerator.num_processes}.json").write_text(
    json.dumps(lines)
)
