"""Reads one spoilt file after the other in a process of its own, within bounds of time and memory."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.kinds import Kind

MOST_S, MOST_BYTES = 20, 512 * 2**20
_MOST_CHARACTERS = 1200


@dataclass(frozen=True)
class Outcome:
    """How reading ended: ``how`` is equal, differs, refused, or one of `WRONG`."""

    how: str
    told: str = ""


# silent: other content of a file that has a checksum. unclear: an error of several lines, or without the file's name.
WRONG = ("silent", "crash", "unclear", "hang", "memory")


class Reader:
    """A forked process that reads; after a hang or a death the next file gets a new one."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._process: Any = None

    def read(self, kind: int, path: Path, whole: str | None, *, forged: bool) -> Outcome:
        """The outcome for the file at ``path``; ``whole`` is what the file held before, None to hear what it holds."""
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._here, there = context.Pipe()
            self._process = context.Process(target=_serve, args=(self._kinds, there), daemon=True)
            self._process.start()
            there.close()
        try:
            self._here.send((kind, path, whole, forged))
            if self._here.poll(MOST_S):
                return self._here.recv()
            told = Outcome("hang", f"after {MOST_S} s")
        except EOFError:
            self._process.join()
            told = Outcome("crash", f"the process ended with {self._process.exitcode}")
        self.close()
        return told

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._here.close()
            self._process = None


def _serve(kinds: Sequence[Kind], pipe: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    while True:
        try:
            kind, path, whole, forged = pipe.recv()
        except EOFError:
            return
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told = _outcome(kinds[kind], path, whole, forged=forged)
        grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown_bytes > MOST_BYTES:
            told = Outcome("memory", f"{grown_bytes:,} bytes ({told.told})")
        pipe.send(told)


def _outcome(kind: Kind, path: Path, whole: str | None, *, forged: bool) -> Outcome:
    try:
        read = kind.read(path)
    except kind.error as error:
        told = str(error)
        if (
            "\n" in told
            or str(path) not in told
            or len(told) - told.count(str(path)) * len(str(path)) > _MOST_CHARACTERS
        ):
            return Outcome("unclear", f"{type(error).__name__}: {told[:300]!r}")
        return Outcome("refused", told)
    except BaseException as error:
        return Outcome("crash", f"{type(error).__name__}: {str(error)[:300]}")
    if whole is None:
        return Outcome("equal", read)
    if read == whole:
        return Outcome("equal")
    return Outcome("differs" if forged else "silent", read[:200])
