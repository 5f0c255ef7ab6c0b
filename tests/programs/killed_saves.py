"""Writes two checkpoints, in run after run, and dies by SIGKILL in the middle of the second.

The argument is the folder of the runs; run N dies where a file or folder is flushed after N others.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from flm.checkpoint import CheckpointConfig, TrainingState
from flm.training.checkpoint_writer import CheckpointWriter

flush = os.fsync


def save_twice(run: Path, last_flush: int) -> None:
    writer = CheckpointWriter(run, CheckpointConfig(keep=1))
    for step in (1, 2):
        weights = {"a": torch.full((100, 100), float(step))}
        state = TrainingState(step=step, manifest_hash="abc", best_score=1.0 / step, best_step=step)
        writer.save({}, state, model=weights, training=weights, is_best=True)
        writer.wait()
        flushes = 0

        def count(descriptor: int) -> None:
            nonlocal flushes
            if flushes == last_flush:
                os.kill(os.getpid(), signal.SIGKILL)
            flushes += 1
            flush(descriptor)

        os.fsync = count


for number in range(100):
    # Forked, since the imports take longer than all the rest.
    child = os.fork()
    if child == 0:
        save_twice(Path(sys.argv[1], str(number)), number)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        break
