"""Steps of a training, eager and compiled: FOLDER_OF_SHARDS FOLDER_OF_RUNS BACKEND; tells the losses, and how
many graphs were compiled, as JSON.

A process of its own, since the checks of shapes that the tests put into flm cannot be compiled.
"""

import functools
import itertools
import json
import sys
from pathlib import Path

import torch
import torch._dynamo.utils

from flm.training.run import build
from flm.training.step import train_step

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_runs import tiny

data, out, backend = sys.argv[1:]
torch.compile = functools.partial(torch.compile, backend=backend)
told: dict[str, object] = {}
for name in ("eager", "compiled"):
    run = build(tiny(Path(data), Path(out) / name, compile=name == "compiled"))
    batches = itertools.islice(run.training_batches(), 3)
    told[name] = [train_step(run, batch)["total"].item() for batch in batches]
told["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print(json.dumps(told))
