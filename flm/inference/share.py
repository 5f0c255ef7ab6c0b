"""The processes that predict together, under `torchrun`, `accelerate launch` or any launcher that sets RANK.

They share a folder and nothing else. What earlier runs left in it is told from what these processes write by
a word that each makes up.
"""

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flm.errors import InputError
from flm.files import write_whole

LOOK_EVERY_S = 0.05
MEET_WITHIN_S = 600.0
LONGEST_RUN_S = 7 * 86400.0
_START = "start.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """This process among them."""

    process: int = 0
    num_processes: int = 1
    _word: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def of_environment(cls) -> "Share":
        """What a launcher says; one process where there is none."""
        return cls(
            process=int(os.environ.get("RANK", "0")), num_processes=int(os.environ.get("WORLD_SIZE", "1"))
        )

    @property
    def is_first(self) -> bool:
        """The first process prepares the folder, merges the results and speaks."""
        return self.process == 0

    def is_mine(self, number: int) -> bool:
        """Whether a picture, by its place among all, is this process's."""
        return number % self.num_processes == self.process

    def meet(self, folder: Path) -> None:
        """Go on when every process is here; the first has prepared the folder by then.

        Raises:
            InputError: one is missing, or the folder cannot be written.
        """
        if self.num_processes == 1:
            return
        if self.is_first:
            for path in folder.glob("process-*"):
                path.unlink()
            (folder / _START).unlink(missing_ok=True)
            _wait(lambda: len(self._words(folder, "here")) == self.num_processes - 1, MEET_WITHIN_S)
            write_whole(folder / _START, json.dumps(self._words(folder, "here")).encode())
            return
        _wait(lambda: self._is_counted(folder), MEET_WITHIN_S)

    def wait_for_all(self, folder: Path) -> None:
        """Tell that this process is done; the first goes on when all are.

        Raises:
            InputError: one is missing, or the folder cannot be written.
        """
        if self.num_processes == 1:
            return
        if self.is_first:
            words = _read(folder / _START)
            _wait(lambda: self._words(folder, "done") == words, LONGEST_RUN_S)
        else:
            write_whole(self._place(folder, "done"), self._word.encode())

    def _is_counted(self, folder: Path) -> bool:
        """Whether the first process has met this one; it may have cleared the folder in between."""
        place = self._place(folder, "here")
        if folder.is_dir() and not place.exists():
            write_whole(place, self._word.encode())
        return _read(folder / _START).get(str(self.process)) == self._word

    def _place(self, folder: Path, state: str) -> Path:
        return folder / f"process-{self.process:05d}-{state}"

    def _words(self, folder: Path, state: str) -> dict[str, str]:
        return {
            str(int(path.name.split("-")[1])): path.read_text() for path in folder.glob(f"process-*-{state}")
        }


def _read(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def _wait(is_over: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not is_over():
        if time.monotonic() > end:
            raise InputError(
                f"a process did not come within {limit_s:g} s; RANK and WORLD_SIZE must be those of "
                "processes that write to the same --out"
            )
        time.sleep(LOOK_EVERY_S)
