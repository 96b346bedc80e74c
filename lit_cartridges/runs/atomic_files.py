"""Files that are there whole or not at all: written beside their place, flushed to the disk, renamed into it.

A process that dies in between leaves a hidden temporary file, which no reader takes for a file of ours, and which
`sweep` removes when the next run begins.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from lit_cartridges.errors import CartridgesError

_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


class OutOfSpaceError(CartridgesError, OSError):
    """A disk or a quota is full; the message names the folder and what to do."""


def write_atomically(path: Path, content: bytes | memoryview, *, previous: Path | None = None) -> None:
    """Write beside ``path`` and rename, so that a reader sees the old file or the new one, never a part.

    Args:
        path: the file; its folder exists.
        content: all of it.
        previous: where the file that is replaced is kept, in the same folder. Whenever the process may die, ``path``
            or ``previous`` is whole.

    Raises:
        OutOfSpaceError: no room for it; the old file stays.
    """
    beside = _beside(path)
    try:
        while True:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if previous is not None:
                _keep(path, previous)
            try:
                os.replace(beside, path)
                break
            except FileNotFoundError:
                # Another run that began just now in the same folder has swept it away.
                if not path.parent.is_dir():
                    raise
        _flush_folder(path.parent)
    except OSError as error:
        raise explained(error, path.parent) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def explained(error: OSError, folder: Path) -> OSError:
    """An error of a full disk in words for a user whose run writes to ``folder``; any other as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or isinstance(error, OutOfSpaceError):
        return error
    try:
        room = f"{shutil.disk_usage(folder).free:,} bytes are free"
    except OSError:
        room = "it cannot be asked how much is free"
    full = "the disk is full" if error.errno == errno.ENOSPC else "your quota is used up"
    return OutOfSpaceError(
        error.errno,
        f"{full} in {str(folder)!r} ({room}). What was saved there is whole: make room and start the same command "
        "again, which goes on from the last checkpoint; or move the folder to a larger disk and give its new place",
    )


def sweep(folder: Path) -> int:
    """Remove what writers that died have left in ``folder``; returns the number of files.

    A writer that is still alive writes its file once more.
    """
    try:
        leftovers = [path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _keep(path: Path, previous: Path) -> None:
    """``previous`` becomes a second name of ``path``, at once; where there are no second names, its only one."""
    if not path.exists():
        return
    link = _beside(previous)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, previous)
        return
    try:
        os.replace(link, previous)
    finally:
        # Renaming one name of a file to another name of the same file does nothing, and leaves both.
        link.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """A rename survives a power failure once its folder is on the disk; some file systems cannot be asked for it."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
