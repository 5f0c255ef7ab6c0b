"""How the processes of a launcher meet, also after it started them again.

torchrun's agent keeps one store for all starts of its processes (torch 2.14). What those before left there,
as addresses for gloo and NCCL, is read by those that come after, which then wait for processes that are gone:
https://github.com/pytorch/pytorch/issues/135712. The number of the restart does not tell the starts apart, as
each machine's agent counts for itself. So the processes agree on a name for their own start.
"""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.rendezvous import register_rendezvous_handler

from flm.errors import InputError

METHOD = "flm://"
"""The `init_method` of `torch.distributed.init_process_group`."""

LOOK_EVERY_S = 0.02
MISTAKE = "flm/mistake"
"""The key of the machine on which a mistake ended the run."""
TELL_S = 5.0


def method() -> str | None:
    """How `init_process_group` shall meet the others; None for its own way, without an agent's store."""
    return METHOD if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else None


def _meet(_url: str, timeout: timedelta, **_: object) -> Iterator[tuple[PrefixStore, int, int]]:
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*address, num_processes, is_master=False, timeout=timeout)
    if store.check([MISTAKE]):
        raise InputError(f"a mistake ended the run on {store.get(MISTAKE).decode()}, which told it")
    name = name_of_start(PrefixStore("flm", store), rank, num_processes, timeout)
    yield PrefixStore(f"flm/{name}", store), rank, num_processes


def tell_other_machines() -> None:
    """Leave word of a mistake for launchers that start their processes again, which would meet it again."""
    if method() is None or os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # One that is gone has ended the others as well.
    with contextlib.suppress(RuntimeError):
        store = TCPStore(*address, is_master=False, timeout=timedelta(seconds=TELL_S))
        store.set(MISTAKE, socket.gethostname())


def name_of_start(store: PrefixStore, rank: int, num_processes: int, timeout: timedelta) -> str:
    """A name that only the processes of this start have, called by all of them.

    The first process tells what it reads of the others, until each found a word in it that is new with this
    start, and said so under the first one's own name, which is new as well.

    Args:
        store: with whatever processes before have left.
        rank: of this process.
        num_processes: all of them.
        timeout: for the others to come.

    Raises:
        TimeoutError: one did not come.
    """
    own = secrets.token_hex(8)
    others = range(1, num_processes)
    if rank > 0:
        store.set(f"word/{rank}", own)
    deadline_s = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline_s:
        if rank == 0:
            present = [f"word/{other}" for other in others if store.check([f"word/{other}"])]
            store.set("start", json.dumps([own, [store.get(key).decode() for key in present]]))
            if all(store.check([f"{own}/{other}"]) for other in others):
                return own
        elif store.check(["start"]):
            name, words = json.loads(store.get("start"))
            if own in words:
                store.set(f"{name}/{rank}", "")
                return name
        time.sleep(LOOK_EVERY_S)
    raise TimeoutError(f"not all of {num_processes} processes came within {timeout}")


register_rendezvous_handler("flm", _meet)
