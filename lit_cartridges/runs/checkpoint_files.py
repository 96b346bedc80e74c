"""Checkpoints on disk: how they are written, whether they are whole, and which one a run goes on from.

``checkpoints/`` holds ``last.ckpt``, the one before it as ``previous.ckpt``, and ``best.ckpt``. They are zip archives,
as torch writes them, with a checksum of every part.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import one_line
from lit_cartridges.files.torch_archive import archive_problem
from lit_cartridges.runs.atomic_files import write_atomically

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# What was last.ckpt and could not be read: kept for a look at it.
UNREADABLE = "last.unreadable.ckpt"


class CheckpointFileError(CartridgesError, ValueError):
    """A checkpoint that cannot be read, or none that can; the message says what would work."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's, but through `write_atomically`: its own passes through the system's temporary folder, from which a
    file on another disk is copied, not renamed.

    Attributes:
        keeps_previous: the ``last.ckpt`` that is replaced becomes ``previous.ckpt``.
    """

    def __init__(self) -> None:
        self.keeps_previous = True

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See `write_atomically` for what is raised."""
        path = Path(path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        keeps = self.keeps_previous and path.name == LAST
        write_atomically(path, buffer.getbuffer(), previous=path.with_name(PREVIOUS) if keeps else None)


def problem(path: Path) -> str | None:
    """Why a checkpoint cannot be gone on from; None where it can. Checks every checksum, and reads it as a run would.

    torch itself does not look at the checksums when it loads, and where it maps a file, not at sizes either.
    """
    try:
        if path.stat().st_size == 0:
            return "it is empty"
        if (why := archive_problem(path)) is not None:
            return why
        content = torch.load(path, map_location="cpu", weights_only=True)
        missing = [name for name in ("state_dict", "global_step", "loops") if name not in content]
        return f"it has no {', '.join(missing)}" if missing else None
    except Exception as error:  # arbitrary bytes make the readers raise anything
        return f"{type(error).__name__}: {one_line(error) if str(error) else 'truncated'}"


def resume_path(checkpoints: Path, *, tell: Callable[[str], None]) -> Path | None:
    """The checkpoint to go on from: the last one, or else the one before it, or else the best; None where there is none.

    A run that dies in its first save may leave ``best.ckpt`` alone.

    Args:
        checkpoints: the folder.
        tell: is told which cannot be read.

    Raises:
        CheckpointFileError: there are checkpoints, and none of them can be read.
    """
    unread: list[str] = []
    for name in (LAST, PREVIOUS, BEST):
        path = checkpoints / name
        why = problem(path) if path.exists() else "it is missing"
        if why is None:
            if unread:
                tell(f"{'; '.join(unread)}: going on from {path}")
            return path
        unread.append(f"{path} cannot be read ({why})")
    if not any(checkpoints.glob("*.ckpt")):
        return None
    raise CheckpointFileError(
        f"no checkpoint can be gone on from: {'; '.join(unread)}. Put a copy of one there, or choose --resume never, which "
        "starts anew and overwrites them (the recorded conversations are used again)"
    )


def set_aside(checkpoints: Path) -> None:
    """Rename a ``last.ckpt`` that cannot be read, so that it never becomes ``previous.ckpt``."""
    if (checkpoints / LAST).exists():
        os.replace(checkpoints / LAST, checkpoints / UNREADABLE)
