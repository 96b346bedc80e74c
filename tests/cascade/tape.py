"""CUDA graphs as the CPU can have them: what a capture demands, and what a replay does.

A capture runs nothing and asks the device for nothing; a replay runs the same operators on the same memory, without any
Python in between. So a number that Python worked out, or a tensor that moved, is the first step's for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.dispatched import WAITS


class Tape(TorchDispatchMode):
    """Records operators; what they have written into memory of before is put back by `undo`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.own: set[int] = set()
        self.before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name.removeprefix("aten::") in WAITS:
            raise RuntimeError(f"{func} while a graph is captured")
        for given, described in zip(args, func._schema.arguments, strict=False):
            if described.is_write and (storage := given.untyped_storage()).data_ptr() not in self.own:
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        out = func(*args, **kwargs)
        if not func.is_view:
            made = {x.untyped_storage().data_ptr() for x in _tensors(out)}
            self.own |= made - {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
        self.calls.append((func, args, kwargs, out))
        return out

    def undo(self) -> None:
        for storage, content in self.before.values():
            storage.copy_(content)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                if func.is_view:
                    continue
                again = func(*args, **kwargs)
                for held, new in zip(_tensors(out), _tensors(again), strict=True):
                    if held.data_ptr() != new.data_ptr():
                        held.copy_(new)


def taped(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """As `decoding.CAPTURES` has it."""
    tape = Tape()
    try:
        with tape:
            out = step()
    finally:
        tape.undo()
    return tape.replay, out


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
