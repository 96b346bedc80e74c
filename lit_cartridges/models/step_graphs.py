"""Steps of decoding and training as CUDA graphs: the same launches again, without the time that Python takes to make them.

A kind of step is run once, watched for what a graph cannot hold; captured when it comes again; and replayed from then on. A model
that waits for the device in the middle of a step, as some routers of experts do, is named once and goes on without graphs.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cartridges.files.content import one_line
from lit_cartridges.terminal import printable_line

# Their result is a number of Python or a size that only the device knows.
_WAITING = frozenset(
    "_local_scalar_dense item nonzero masked_select is_nonzero equal bincount unique_dim _unique2 unique_consecutive".split()
)
_COPYING = frozenset(("_to_copy", "copy_"))
_capturing = Lock()  # torch captures on one stream, whichever thread asks


class Graph(Protocol):
    """As `torch.cuda.CUDAGraph` has it."""

    def replay(self) -> None:
        """Launch what was captured."""

    def pool(self) -> Any:
        """Its memory."""


def captures(device: torch.device) -> bool:
    """Whether steps on this device can be captured."""
    return device.type == "cuda"


def captured(step: Callable[[], None], beside: Graph | None) -> Graph:
    """``step`` as a graph, which has not run yet.

    Args:
        beside: shares its memory with the new one, so that one of them runs at a time. A pool is its graphs': torch
            refuses the name of one whose last graph is gone.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    pool = None if beside is None else beside.pool()
    try:
        # What other threads do meanwhile, such as training, is no part of it.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            step()
    finally:
        torch.cuda.set_stream(stream)  # torch stays on its own where a capture fails
    return graph


class StepGraphs:
    """Of one model's steps, which must read and write at the same addresses whenever ``kind`` and ``version`` are the same,
    return nothing, and do no harm if they are begun and not finished.

    Args:
        steps, same: what they are called where they are no graphs, and what is the same then.
        uncounted: a ``with`` round the capture of a step, which takes back what it has counted on the host.

    Attributes:
        refused: why there are no graphs, once a step has turned out to hold what a graph cannot.
        replays: steps that were a graph.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        steps: str = "decoding steps",
        same: str = "what is decoded is the same",
        uncounted: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._name, self._uncounted = type(model).__name__, uncounted
        self._steps, self._same = steps, same
        self.refused: str | None = None
        devices = {x.device for x in model.parameters()}
        gathered = any(hasattr(x, "ds_id") for x in model.parameters())
        if gathered or len(devices) != 1 or not captures(*devices):
            self.refused = (
                "the weights are not on one device that has them, or gathered from others in every step"
            )
        self.replays = 0
        self._version: Hashable = None
        self._graphs: dict[Hashable, Graph | None] = {}

    def run(self, step: Callable[[], None], *, kind: Hashable, version: Hashable) -> bool:
        """Do ``step``; the graphs of an earlier ``version`` are given back. True where it was a graph, and no Python ran."""
        if self.refused is None and version != self._version:
            self._graphs, self._version = {}, version
        if self.refused is None and kind in self._graphs and self._graphs[kind] is None:
            self._capture(step, kind)
        if self.refused is not None:
            step()
        elif (graph := self._graphs.get(kind)) is None:
            self._watch(step, kind)
        else:
            self.replays += 1
            graph.replay()
            return True
        return False

    def _capture(self, step: Callable[[], None], kind: Hashable) -> None:
        beside = next((graph for graph in self._graphs.values() if graph is not None), None)
        try:
            with _capturing, self._uncounted():
                self._graphs[kind] = captured(step, beside)
        except RuntimeError as error:
            self.refuse(one_line(error))

    def _watch(self, step: Callable[[], None], kind: Hashable) -> None:
        with _Watched() as watched:
            step()
        self._graphs[kind] = None
        if watched.waits:
            self.refuse(f"it waits for the device in {', '.join(sorted(watched.waits))}")

    def refuse(self, why: str) -> None:
        """Make no graphs from now on, and say so."""
        self.refused, self._graphs = why, {}
        told = printable_line(f"{self._name}: {self._steps} are no CUDA graphs, since {why}")
        warnings.warn(f"{told}; {self._same}, and slower", stacklevel=2)

    def forget(self, kind: Hashable) -> None:
        """Give back the graph of a kind of steps that does not come again."""
        self._graphs.pop(kind, None)


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
        # torch.tensor: its copy from the host shows in nothing else. On the CPU it is a number of Python's, as in x[0] = 1.
        lifts = name == "lift_fresh" and args[0].device.type != "cpu"
        if name in _WAITING or picks or lifts or (name in _COPYING and _crosses(args, kwargs or {})):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def _is_mask(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype == torch.bool


def _crosses(args: Any, keywords: Any) -> bool:
    """Whether a copy goes from one device to another."""
    to = keywords.get("device") or args[0].device
    return len({to.type, *(x.device.type for x in args if isinstance(x, torch.Tensor))}) > 1
