"""A run's folder belongs to one training at a time, and is known to take files before a model is loaded.

The lock is one of the operating system on ``.lock`` (by `filelock`), which names its holder. It ends with the holder's process,
however that dies, is not inherited by processes that it starts, and holds across the machines of a network file system whose
``flock`` does. Only training takes it: validating, testing and predicting may go on beside.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from lit_cartridges.errors import CartridgesError
from lit_cartridges.runs.atomic_files import explained, sweep

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_log = logging.getLogger(__name__)


class RunFolderError(CartridgesError, ValueError):
    """The folder cannot be written, or another training is going on there; the message says what would work."""


class RunFolder:
    """A folder for checkpoints, cartridges, the recording and logs.

    Args:
        path: made by `take` where it is missing.
        patience_s: a lock whose holder's machine has died stays for as long as a network file system's server waits
            for that machine; a holder on another machine is therefore waited for, so many seconds, before it counts.
    """

    def __init__(self, path: Path, *, patience_s: float = 120.0) -> None:
        self.path, self.patience_s = path, patience_s
        self._lock = FileLock(
            path / LOCK, blocking=False, thread_local=False, fallback_to_soft=False, on_acquired=_say_holder
        )

    def take(self) -> None:
        """Hold the folder until `release` or the end of the process, and clear away what a killed run left half-written.

        Raises:
            RunFolderError: it cannot be made or written, or a training holds it.
        """
        if self._lock.is_locked:
            return
        self._require_writable()
        self._acquire()
        for folder in (self.path, *(p for p in self.path.iterdir() if p.is_dir())):
            sweep(folder)

    def release(self) -> None:
        """Give the folder to the next run; the file stays, since removing it could let two runs in."""
        self._lock.release(force=True)

    def _require_writable(self) -> None:
        place = self.path
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for place in (self.path, *(p for p in self.path.iterdir() if p.is_dir())):
                if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
                    number = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
                    raise OSError(number, os.strerror(number))
        except OSError as error:
            raise self._unwritable(error, place) from error

    def _acquire(self) -> None:
        end = time.monotonic() + self.patience_s
        while True:
            try:
                self._lock.acquire()
                return
            except Timeout as error:
                holder = _holder(self.path / LOCK)
                if holder.get("process") == os.getppid():
                    return  # a launcher that forks or spawns has taken it for us
                elsewhere = holder.get("host") not in (None, socket.gethostname())
                if not elsewhere or time.monotonic() > end:
                    raise self._taken(holder) from error
                time.sleep(1)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise self._unwritable(error, self.path) from error
                _log.warning("%s: no locks there; see that no second run writes to it", self.path)
                return

    def _unwritable(self, error: OSError, place: Path) -> OSError | RunFolderError:
        if (told := explained(error, place)) is not error:
            return told
        within = "" if place == self.path else f" (its {place.name}/)"
        return RunFolderError(
            f"the run's folder {str(self.path)!r}{within} cannot be written: {error.strerror}; set "
            "trainer.default_root_dir to one that can be, or mend its permissions or its mount"
        )

    def _taken(self, holder: dict[str, object]) -> RunFolderError:
        who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
        return RunFolderError(
            f"the run's folder {str(self.path)!r} is in use by another training ({who}); wait for it or stop it, or set "
            "trainer.default_root_dir to another folder"
        )


def _say_holder(file: int) -> None:
    os.truncate(file, 0)
    os.pwrite(file, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(file: Path) -> dict[str, object]:
    """Who says to hold the lock; nothing where it has not said so yet."""
    try:
        known = json.loads(file.read_bytes())
        return {"process": known["process"], "host": known["host"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
