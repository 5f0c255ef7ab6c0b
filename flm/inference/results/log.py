"""What is known of the pictures of a run: a file of lines for each process, to which lines are only added.

A process that is killed leaves at most half a line, which is dropped. In memory are less than a hundred bytes
a picture, so that a run over a million can be gone on with, also on another number of processes.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flm.errors import InputError

_RESULT, _MISTAKE = "result", "mistake"
_PLACE_BITS = 44
"""Of a line's place: 16 TiB; the bits above say which file it is in."""


class ResultWriter:
    """Adds to the lines of one process.

    Args:
        folder: of all processes.
        process: its number.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, process: int) -> None:
        self.path = folder / f"results-{process:05d}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            os.truncate(self.path, _end_of_last_line(self.path))
        except OSError as error:
            raise _not_written(self.path, error) from error

    def add_result(self, name: str, record: dict[str, Any]) -> None:
        """The record of a picture that is done, its files included.

        Raises:
            InputError: it cannot be written.
        """
        self._add({"name": name, _RESULT: record})

    def add_mistake(self, name: str, message: str) -> None:
        """Why there is none.

        Raises:
            InputError: it cannot be written.
        """
        self._add({"name": name, _MISTAKE: message})

    def _add(self, fields: dict[str, Any]) -> None:
        line = json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise _not_written(self.path, error) from error

    def close(self) -> None:
        """Nothing is added after this."""
        self._file.close()


class ResultIndex:
    """Where the lines of all processes are.

    Args:
        folder: with their files; none is there at first.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("results-*.jsonl"))
        keys, places, done = array("Q"), array("Q"), array("B")
        for number, path in enumerate(self._paths):
            for offset, key, is_result in _scanned(path):
                keys.append(key)
                places.append((number << _PLACE_BITS) | offset)
                done.append(is_result)
        order = np.lexsort((np.arange(len(keys)), np.array(done), np.array(keys)))
        sorted_keys = np.array(keys)[order]
        # Of each picture the last line, and before a mistake a result, wherever it stands.
        is_last = np.append(sorted_keys[1:] != sorted_keys[:-1], True)[: len(order)]
        self._keys = sorted_keys[is_last]
        self._places = np.array(places)[order][is_last]
        self._done = np.array(done, dtype=bool)[order][is_last]
        self._files: dict[int, BinaryIO] = {}

    def is_done(self, name: str) -> bool:
        """Whether there is a result; a picture with a mistake may be another by now."""
        row = self._row(name)
        return row is not None and bool(self._done[row])

    def found(self, name: str) -> dict[str, Any] | str | None:
        """The record of a picture, or the message of its mistake; None where neither is known."""
        row = self._row(name)
        if row is None:
            return None
        number, offset = divmod(int(self._places[row]), 1 << _PLACE_BITS)
        if number not in self._files:
            self._files[number] = self._paths[number].open("rb")
        self._files[number].seek(offset)
        fields = json.loads(self._files[number].readline())
        return fields.get(_RESULT, fields.get(_MISTAKE))

    def close(self) -> None:
        """Nothing is found after this."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _row(self, name: str) -> int | None:
        key = np.uint64(_key(name))
        row = int(np.searchsorted(self._keys, key))
        return row if row < len(self._keys) and self._keys[row] == key else None


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _scanned(path: Path) -> Iterator[tuple[int, int, bool]]:
    """Place, key, and whether it is a result, of each whole line."""
    decoder = json.JSONDecoder()
    start = '{"name": '
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                # The name alone: a record is a hundred times as long.
                text = line[: len(start) + 2**14].decode(errors="replace")
                name, end = decoder.raw_decode(text, len(start))
                yield offset, _key(name), text[end:].startswith(f', "{_RESULT}"')
            offset += len(line)


def _end_of_last_line(path: Path) -> int:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 2**16)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _not_written(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror}); make room or choose another --out")
