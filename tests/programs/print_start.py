"""Started by a launcher: writes which weights each process begins with, one file a process.

The run begins from each of the checkpoints that the arguments after the folders name, one after another.
"""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

from torch import nn

from flm.errors import InputError
from flm.recipes import recipe_named
from flm.training.init_from import take_over
from flm.training.run import build


def hash_of(network: nn.Module) -> str:
    weights = network.state_dict()
    content = b"".join(name.encode() + weights[name].cpu().numpy().tobytes() for name in sorted(weights))
    return hashlib.sha256(content).hexdigest()


data, out = sys.argv[1], Path(sys.argv[2])
recipe = recipe_named("quickstart")
config = dataclasses.replace(
    recipe,
    data=data,
    out=out,
    init_from="",
    model=dataclasses.replace(recipe.model, input_size_px=64, head_channels=32),
    tracking=dataclasses.replace(recipe.tracking, tracker="none"),
)
run = build(config)
mistakes = []
for init_from in sys.argv[3:]:
    run.config = dataclasses.replace(config, init_from=init_from)
    try:
        take_over(run)
    except InputError as error:
        mistakes.append(str(error))
hashes = {"network": hash_of(run.network), "average": hash_of(run.average.network)}
report = {"mistakes": mistakes, **hashes, "init_from": run.config.init_from}
(out / f"process{run.accelerator.process_index}.json").write_text(json.dumps(report))
