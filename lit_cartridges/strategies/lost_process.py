"""Says in plain words that another process of the run has died or hangs, where the backend's error does not."""

from __future__ import annotations

from typing import Any

from torch.distributed import DistError

# How gloo says it; NCCL raises DistError, or ends the process with a message of its own.
_SIGNS = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "Application timeout")


def explain_lost_process(error: BaseException, trainer: Any) -> None:
    """Add a note to ``error`` if it comes of a collective operation that another process did not take part in."""
    if trainer.world_size == 1 or not isinstance(error, RuntimeError):
        return
    if isinstance(error, DistError) or any(sign in str(error) for sign in _SIGNS):
        error.add_note(
            f"process {trainer.global_rank} of {trainer.world_size} lost another one, which has died or hangs; the logs of "
            "the others say why. The same command goes on from the last checkpoint."
        )
