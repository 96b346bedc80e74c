"""What a step hands to torch's dispatcher: what a device would be given to do, and where the CPU would wait for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Their result is a number of Python, or a size that nobody knew before.
WAITS = frozenset(
    "_local_scalar_dense item nonzero masked_select is_nonzero equal unique_dim _unique2".split()
)
# Copies between devices, which wait unless they are told not to.
COPIES = frozenset(("_to_copy", "copy_"))
_NOTHING_TO_DO = frozenset("empty empty_like new_empty empty_strided detach lift_fresh _unsafe_view".split())


def waits(func: Any, args: Any, kwargs: Any) -> str | None:
    """What the device is waited for, if it is."""
    name: str = func._schema.name.removeprefix("aten::")
    if name in WAITS or name in COPIES and _crosses(name, args, kwargs):
        return name
    return f"{name} by a mask" if name.startswith("index") and _picks_by_mask(args) else None


class Dispatched(TorchDispatchMode):
    """``names`` counts the operators by name, ``launched`` those that compute; ``waits`` has those that a GPU is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.launched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.names[name] += 1
        self.launched += not func.is_view and name not in _NOTHING_TO_DO
        if (wait := waits(func, args, kwargs or {})) is not None:
            self.waits[wait] += 1
        return func(*args, **(kwargs or {}))


def _picks_by_mask(args: Any) -> bool:
    picked = args[1] if isinstance(args[1], list | tuple) else ()
    return any(x is not None and x.dtype == torch.bool for x in picked)


def _crosses(name: str, args: Any, keywords: Any) -> bool:
    if name == "copy_":
        target, source, *non_blocking = args
        return target.device != source.device and not any(non_blocking)
    target = keywords.get("device")
    return target not in (None, args[0].device) and not keywords.get("non_blocking", False)


class InStep(L.Callback):
    """Enters ``mode`` where forward and backward pass of a micro-batch begin, and leaves it where they have ended."""

    def __init__(self, mode: Any, skipped_steps: int = 0) -> None:
        self.mode, self.skipped, self.steps = mode, skipped_steps, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx >= self.skipped:
            self.mode.__enter__()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx >= self.skipped:
            self.mode.__exit__(None, None, None)
            self.steps += 1
