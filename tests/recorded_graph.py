"""A CUDA graph's part on machines without one: the operators of a step, done again on the same tensors, without its Python.

What a step took from Python, be it a number, a length or a tensor that is not at its old address, is what it was when the step
was recorded, as in a graph. So a step that is replayed wrongly gives wrong tokens here too, and one that asks the device for
something is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_cartridges.models.step_graphs import Graph
from tests.dispatched import waits


class RecordedGraph(TorchDispatchMode):
    """``calls`` holds each operator with its arguments and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (wait := waits(func, args, kwargs)) is not None:
            raise RuntimeError(f"CUDA error: {wait} is not permitted when stream is capturing")
        for argument, x in zip(func._schema.arguments, args, strict=False):
            if argument.is_write:
                storage = x.untyped_storage()
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        given = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, given))
        return given

    def undo(self) -> None:
        """What the step wrote is what it was, since nothing happens while a graph is captured."""
        for storage, before in self._before.values():
            storage.copy_(before)

    def pool(self) -> RecordedGraph:
        return self

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, before in self.calls:
            if func.is_view:
                continue
            given = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(given), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    assert old.shape == new.shape
                    old.copy_(new)

    def signature(self) -> list[tuple[Any, ...]]:
        """Each operator with its numbers, and the shapes of its tensors and the addresses of those that it found there."""
        made: set[int] = set()
        told = []
        for func, args, kwargs, given in self.calls:
            leaves = tree_leaves((args, kwargs))
            told.append((func, *(self._told(x, made) for x in leaves)))
            if not func.is_view:
                found = {x.untyped_storage().data_ptr() for x in leaves if isinstance(x, torch.Tensor)}
                made |= {
                    x.untyped_storage().data_ptr() for x in tree_leaves(given) if isinstance(x, torch.Tensor)
                } - found
        return told

    @staticmethod
    def _told(x: Any, made: set[int]) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        there = None if x.untyped_storage().data_ptr() in made else x.data_ptr()
        return x.dtype, tuple(x.shape), x.stride(), there


def recorded(step: Callable[[], None], beside: Graph | None) -> RecordedGraph:
    """As `step_graphs.captured`, and what a capture refuses raises here too."""
    graph = RecordedGraph()
    try:
        with graph:
            step()
    finally:
        graph.undo()
    return graph
