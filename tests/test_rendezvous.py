"""Processes of one start meet each other, whatever those before them left in the store."""

import socket
import threading
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore

from flm.errors import InputError
from flm.process import rendezvous
from flm.process.rendezvous import name_of_start

TIMEOUT = timedelta(seconds=30)


def start(port: int, num_processes: int) -> list[str]:
    """The names that processes get, as a launcher starts them: the last one first."""
    names: dict[int, str] = {}

    def join(rank: int) -> None:
        store = TCPStore("127.0.0.1", port, None, is_master=False, timeout=TIMEOUT)
        names[rank] = name_of_start(PrefixStore("flm", store), rank, num_processes, TIMEOUT)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in reversed(range(num_processes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [names[rank] for rank in range(num_processes)]


def test_each_start_has_a_name_of_its_own():
    server = TCPStore("127.0.0.1", 0, None, is_master=True, timeout=TIMEOUT)
    starts = [start(server.port, 3) for _ in range(5)]
    assert all(len(set(names)) == 1 for names in starts)
    assert len({names[0] for names in starts}) == 5


def test_who_does_not_come_is_not_waited_for_forever():
    server = TCPStore("127.0.0.1", 0, None, is_master=True, timeout=TIMEOUT)
    for rank in (0, 1):
        with pytest.raises(TimeoutError, match="not all of 2 processes came"):
            name_of_start(PrefixStore("flm", server), rank, 2, timedelta(seconds=0.2))


def test_a_mistake_on_one_machine_ends_the_starts_on_others(monkeypatch):
    server = TCPStore("127.0.0.1", 0, None, is_master=True, timeout=TIMEOUT)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in {**place, "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    # On one machine its launcher is told, and starts nothing again.
    rendezvous.tell_other_machines()
    next(rendezvous._meet("", TIMEOUT))
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    rendezvous.tell_other_machines()
    with pytest.raises(InputError, match=f"on {socket.gethostname()}, which told it"):
        next(rendezvous._meet("", TIMEOUT))


def test_it_is_used_where_an_agent_keeps_the_store(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert rendezvous.method() is None
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert rendezvous.method() == "flm://"
