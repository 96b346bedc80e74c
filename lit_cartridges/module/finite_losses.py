"""Whether a run's losses are numbers, without waiting for a device that is still working on them.

Data flow: `take` the loss of a micro-batch → its copy travels to the CPU behind the device's work → looked at when the next
loss is taken, and before anything is saved. On the CPU a loss is looked at when it is taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class FiniteLosses:
    """Raises FloatingPointError for a loss that is not finite, with what was said of its batch.

    On a CUDA device that is one micro-batch later: an optimizer step may have used it, and spoilt the cartridge in memory. No
    checkpoint may be written without `require`.
    """

    def __init__(self) -> None:
        self._asked: tuple[Tensor, torch.cuda.Event | None, str] | None = None

    def take(self, loss: Tensor, batch: str) -> None:
        """
        Args:
            loss: of one micro-batch, a single number.
            batch: which one, in words.

        Raises:
            FloatingPointError: this loss on the CPU, or the one before it on another device, is not finite.
        """
        self.require()
        there, copied = self._on_its_way(loss.detach())
        self._asked = there, copied, batch
        if copied is None:
            self.require()

    def require(self) -> None:
        """
        Raises:
            FloatingPointError: one of the losses taken is not finite; every call says so again.
        """
        if self._asked is None:
            return
        loss, copied, batch = self._asked
        if copied is not None:
            copied.synchronize()
        if not math.isfinite(value := float(loss)):
            raise FloatingPointError(
                f"the loss is {value} in {batch}; the last good checkpoint is kept. Lower model.learning_rate or set "
                "trainer.gradient_clip_val"
            )
        self._asked = None

    @staticmethod
    def _on_its_way(loss: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """The loss on the CPU once the event has happened."""
        if loss.device.type != "cuda":
            return loss, None
        there = torch.empty((), dtype=loss.dtype, pin_memory=True).copy_(loss, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(loss.device))
        return there, copied
