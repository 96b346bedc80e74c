"""Decoding a stream token by token: on a CUDA device one launch of a graph per token, elsewhere the same step as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.cascade.reading import reads_cascades
from lit_cartridges.cascade.ring import Ring
from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import one_line

Replay = Callable[[], None]


class CaptureError(CartridgesError, RuntimeError):
    """A model whose step cannot be captured as a graph."""


def _cuda_graph(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """What ``step`` launches, to be launched again, and where its result will stand; nothing runs yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = step()
    return graph.replay, out


# How a step is captured on each kind of device; on others every step is made anew.
CAPTURES: dict[str, Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]] = {"cuda": _cuda_graph}


class DecodingStep:
    """Reads one token per row; made by `decodes_cascade`.

    Until the cascade is full, and for the first two tokens afterwards, these are plain forward calls. The next one is captured:
    from there on nothing is computed on the host, and the device is never waited for. Whatever else reads the cache or
    looks at what it holds meanwhile is noticed, and the step captured again.
    """

    def __init__(self, model: Any, cache: CascadingCache, *, graphs: bool) -> None:
        self.model, self.cache, self.graphs = model, cache, graphs
        self._rings: list[Ring | None] = []
        self._token_ids = torch.empty(0, 1, dtype=torch.long)
        self._positions = self._token_ids
        self._replay: Replay | None = None
        self._logits: Tensor | None = None

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        """Logits [R, vocabulary] after ``token_ids`` [R, 1].

        Raises:
            CaptureError: the model's forward call cannot be captured.
        """
        before, rings = self._rings, [layer.ring for layer in self.cache.layers]
        self._rings = rings
        # The second token with these rings: the first has made what later ones find.
        steady = (
            None not in rings and all(x is y for x, y in zip(before, rings, strict=False)) and bool(before)
        )
        if not steady or token_ids.shape != self._token_ids.shape:
            self._replay = None
            self._token_ids, self._positions = token_ids.clone(), torch.zeros_like(token_ids)
            return self._forward()
        self._token_ids.copy_(token_ids)
        if self._replay is not None:
            for layer in self.cache.layers:
                layer.cumulative_length += 1
        elif (capture := self._capture_here()) is not None:
            self._replay, self._logits = self._captured(capture)
        if self._replay is None or self._logits is None:
            return self._forward()
        self._replay()
        return self._logits.clone()

    def _forward(self) -> Tensor:
        """The positions mean nothing, and are given so that the model does not count on the host."""
        out = self.model(
            self._token_ids, position_ids=self._positions, **cache_argument(self.cache), use_cache=True
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _capture_here(self) -> Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]] | None:
        devices = {layer.ring.held.device for layer in self.cache.layers} | {self._token_ids.device}
        return CAPTURES.get(devices.pop().type) if self.graphs and len(devices) == 1 else None

    def _captured(
        self, capture: Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
    ) -> tuple[Replay, Tensor]:
        counters = [x for layer in self.cache.layers for x in (layer.ring, layer.ring.clock)]
        counted = [(x, x.steps) for x in counters]
        lengths = [layer.cumulative_length for layer in self.cache.layers]
        try:
            return capture(self._forward)
        except RuntimeError as error:
            # Nothing has run: what was counted on the host is taken back.
            for counter, steps in counted:
                counter.steps = steps
            for layer, length in zip(self.cache.layers, lengths, strict=True):
                layer.cumulative_length = length
            raise CaptureError(
                f"the forward call of {type(self.model).__name__} cannot be captured as a graph: {one_line(error)}; "
                "decode with graphs=False"
            ) from error


@contextmanager
def decodes_cascade(model: Any, cache: CascadingCache, *, graphs: bool = True) -> Iterator[DecodingStep]:
    """Inside, a step that reads one token per row of ``cache`` and gives the next one's logits.

        with decodes_cascade(model, cache) as step:
            logits = step(token_ids)

    Args:
        graphs: capture the step as a CUDA graph where everything is on one CUDA device. Models whose forward call asks the device
            for numbers (routers of experts, some of them) cannot be captured.

    Raises:
        ValueError: as `reads_cascades`.
    """
    with reads_cascades(model):
        yield DecodingStep(model, cache, graphs=graphs)
