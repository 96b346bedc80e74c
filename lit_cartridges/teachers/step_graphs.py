"""Decoding steps as CUDA graphs: the same launches again, without the time that Python takes to make them.

A kind of step is run once, watched for what a graph cannot hold; captured when it comes again; and replayed from then on. A model
that waits for the device in the middle of a step, as some routers of experts do, is named once and goes on without graphs.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cartridges.terminal import printable_line

# Their result is a number of Python or a size that only the device knows, or they bring numbers from the host.
_WAITING = frozenset(
    "_local_scalar_dense item nonzero masked_select is_nonzero equal bincount unique_dim _unique2 unique_consecutive "
    "lift_fresh".split()
)
_COPYING = frozenset(("_to_copy", "copy_"))


def captures(device: torch.device) -> bool:
    """Whether steps on this device can be captured."""
    return device.type == "cuda"


def captured(step: Callable[[], None], pool: Any) -> Callable[[], None]:
    """``step`` as a graph, which has not run yet; all graphs of a ``pool`` share their memory, one running at a time."""
    graph = torch.cuda.CUDAGraph()
    # What other threads do meanwhile, such as training, is no part of it.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step()
    return graph.replay


class StepGraphs:
    """Of one model's steps, which must read and write at the same addresses whenever ``kind`` and ``version`` are the same,
    return nothing, and do no harm if they are begun and not finished.

    Attributes:
        refused: why there are no graphs, once a step has turned out to hold what a graph cannot.
        replays: steps that were a graph.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self._name, self._device = type(model).__name__, device
        self.refused: str | None = None
        if not captures(device) or any(hasattr(x, "ds_id") for x in model.parameters()):
            self.refused = "the device has none, or weights are gathered from other processes in every step"
        self.replays = 0
        self._version: Hashable = None
        self._graphs: dict[Hashable, Callable[[], None] | None] = {}
        self._pool: Any = None

    def run(self, step: Callable[[], None], *, kind: Hashable, version: Hashable) -> None:
        """Do ``step``; the graphs of an earlier ``version`` are given back."""
        if self.refused is not None:
            return step()
        if version != self._version:
            self._graphs, self._version = {}, version
        if kind not in self._graphs:
            return self._watched(step, kind)
        if self._graphs[kind] is None:
            try:
                if self._pool is None and self._device.type == "cuda":
                    self._pool = torch.cuda.graph_pool_handle()
                self._graphs[kind] = captured(step, self._pool)
            except RuntimeError as error:
                self.refuse(str(error))
                return step()
        replay = self._graphs[kind]
        assert replay is not None
        self.replays += 1
        return replay()

    def _watched(self, step: Callable[[], None], kind: Hashable) -> None:
        with _Watched() as watched:
            step()
        self._graphs[kind] = None
        if watched.waits:
            self.refuse(f"it waits for the device in {', '.join(sorted(watched.waits))}")

    def refuse(self, why: str) -> None:
        """Make no graphs from now on, and say so."""
        self.refused, self._graphs, self._pool = why, {}, None
        told = printable_line(f"{self._name}: decoding steps are no CUDA graphs, since {why}")
        warnings.warn(f"{told}; the replies are the same, and slower", stacklevel=2)


class _Watched(TorchDispatchMode):
    """Of this thread alone: ``waits`` has the operators that a graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        picks = name.startswith("index") and any(
            _is_mask(x) for x in args[1] if isinstance(args[1], list | tuple)
        )
        if name in _WAITING or picks or (name in _COPYING and _crosses(args, kwargs or {})):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def _is_mask(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype == torch.bool


def _crosses(args: Any, keywords: Any) -> bool:
    """Whether a copy goes from one device to another."""
    to = keywords.get("device") or args[0].device
    return len({to.type, *(x.device.type for x in args if isinstance(x, torch.Tensor))}) > 1
