"""Decoding a stream token by token: on a CUDA device one launch of a graph per token, elsewhere the same step as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.cascade.reading import reads_cascades
from lit_cartridges.models.step_graphs import StepGraphs


class DecodingStep:
    """Reads one token per row; made by `decodes_cascade`.

    Until the cascade is full, and for the first two tokens afterwards, these are plain forward calls. The next one is captured
    (see `StepGraphs`): from there on nothing is computed on the host, and the device is never waited for. Whatever else reads
    the cache or looks at what it holds meanwhile is noticed, and the step captured again.
    """

    def __init__(self, model: Any, cache: CascadingCache, *, graphs: bool) -> None:
        self.model, self.cache = model, cache
        self.graphs = StepGraphs(model, uncounted=self._uncounted) if graphs else None
        self._given = torch.empty(2, 0, 1, dtype=torch.long)  # token ids and positions, at one address
        self._logits: Tensor

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        """Logits [R, vocabulary] after ``token_ids`` [R, 1]."""
        if token_ids.shape != self._given.shape[1:]:
            self._given = torch.stack([token_ids, torch.zeros_like(token_ids)])
        self._given[0].copy_(token_ids)
        rings = tuple(layer.ring for layer in self.cache.layers)
        if self.graphs is None or None in rings:
            self._step()
        elif self.graphs.run(self._step, kind=self._given.data_ptr(), version=rings):
            for layer in self.cache.layers:
                layer.cumulative_length += 1
        return self._logits.clone()

    def _step(self) -> None:
        """The positions mean nothing, and are given so that the model does not count on the host."""
        ids, positions = self._given
        out = self.model(ids, position_ids=positions, **cache_argument(self.cache), use_cache=True)
        self._logits = out.logits[:, -1]

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """Nothing runs while a step is captured, so that what it counts on the host is taken back."""
        counters = [x for layer in self.cache.layers for x in (layer.ring, layer.ring.clock)]
        steps, lengths = [x.steps for x in counters], [layer.cumulative_length for layer in self.cache.layers]
        try:
            yield
        finally:
            for counter, count in zip(counters, steps, strict=True):
                counter.steps = count
            for layer, length in zip(self.cache.layers, lengths, strict=True):
                layer.cumulative_length = length
            self.cache.broke_off = False


@contextmanager
def decodes_cascade(model: Any, cache: CascadingCache, *, graphs: bool = True) -> Iterator[DecodingStep]:
    """Inside, a step that reads one token per row of ``cache`` and gives the next one's logits.

        with decodes_cascade(model, cache) as step:
            logits = step(token_ids)

    Args:
        graphs: capture the step as a CUDA graph where everything is on one CUDA device. A model whose forward call asks the
            device for numbers (routers of experts, some of them) is named in a warning, and goes on without.

    Raises:
        ValueError: as `reads_cascades`.
    """
    with reads_cascades(model):
        yield DecodingStep(model, cache, graphs=graphs)
