"""A program beside this one, such as a server, which never outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lit_cartridges.runs import child_watch
from lit_cartridges.terminal import printable

_KILL_S = 5.0
_TAIL_BYTES, _MOST_ERRORS = 1 << 16, 6
_ERROR = re.compile(r"\b(?:[\w.]*(?:Error|Exception|Interrupt)|error): \S.*")
# What a launcher of several training processes tells them, which is not meant for a program that one of them starts.
_LAUNCHERS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("MASTER_ADDR", "MASTER_PORT", "ROLE_WORLD_SIZE", "GROUP_WORLD_SIZE", "PL_GLOBAL_SEED"),
)


class ChildProcess:
    """Started at once, in a session of its own: Ctrl-C in a terminal does not reach it.

    It ends, with all processes that it started, by `stop`, when this object is gone, or this process is, however that ended.

    Args:
        command: the program and its arguments.
        log: file for all that it says; begun anew.
        environment: added to this process's; None removes a variable.
        folder: where it runs; by default here.
        grace_s: from being asked to end to being killed.

    Attributes:
        pid: of the process that watches over it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str | None] | None = None,
        folder: Path | None = None,
        grace_s: float = 20.0,
    ) -> None:
        self.log, self.grace_s = log, grace_s
        asked = {**dict.fromkeys(_LAUNCHERS), **(environment or {})}
        whole = {k: v for k, v in {**os.environ, **asked}.items() if v is not None}
        watch = [sys.executable, "-I", str(child_watch.__file__), str(os.getpid()), str(grace_s)]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*watch, *command],
                env=whole,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._stop = weakref.finalize(self, _end, self._process, os.getpid(), grace_s)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; 128 + N where signal N ended it."""
        return self._process.poll()

    def tail(self, lines: int = 20) -> str:
        """The end of what it has said, fit for a terminal."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            said = file.read().decode(errors="replace").rstrip().splitlines()
            return printable("\n".join(said[-lines:]))
        return ""

    def last_words(self) -> str:
        """What a Python program says of its end: the last errors that its log names, each once; its last lines where it names
        none."""
        found = [error[0].strip() for line in self.tail(2000).splitlines() if (error := _ERROR.search(line))]
        latest = list(dict.fromkeys(reversed(found)))[:_MOST_ERRORS]
        return "\n".join(reversed(latest)) or self.tail()

    def stop(self) -> None:
        """End it, and wait until it has; it may have ended before."""
        self._stop()

    def kill(self) -> None:
        """The same at once and without a word, as a machine fails."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
        self._stop()


def _end(process: subprocess.Popen[bytes], owner: int, grace_s: float) -> None:
    if os.getpid() != owner:  # a fork is no parent of it
        return
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s + _KILL_S)
    if process.poll() is None:
        process.kill()
        process.wait()
