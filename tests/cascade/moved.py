"""Launches, waits and bytes of a cascade's attention and insertion; what the model does besides is not counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from lit_cartridges.cascade.reading import CascadeReading
from tests.dispatched import Dispatched

_PICKS = frozenset("gather index_select index embedding".split())
_PUTS = frozenset("scatter_ index_put_ index_copy_".split())
_NOTHING = frozenset("empty empty_like new_empty empty_strided detach lift_fresh _unsafe_view".split())


def _bytes(x: Any) -> int:
    """Of the memory that ``x`` spans: what is expanded lies there once."""
    if not isinstance(x, torch.Tensor):
        return 0
    return prod(n for n, step in zip(x.shape, x.stride(), strict=True) if step) * x.element_size()


class Moved(Dispatched):
    """``bytes`` read and written by operators that are no views; what is picked or put counts by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or name in _NOTHING:
            return out
        given, made = tree_leaves((args, kwargs)), tree_leaves(out)
        if name in _PICKS:
            self.bytes += 2 * sum(map(_bytes, made))
        elif name in _PUTS:
            self.bytes += 2 * _bytes(args[3] if name == "scatter_" else given[-1])
        else:
            self.bytes += sum(map(_bytes, given)) + sum(map(_bytes, made))
        return out


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moved]:
    """Inside, what cascades do of forward calls is counted."""
    mode, attend = Moved(), CascadeReading.attend

    def inside(*args: Any) -> Any:
        with mode:
            return attend(*args)

    with monkeypatch.context() as patch:
        patch.setattr(CascadeReading, "attend", inside)
        yield mode
